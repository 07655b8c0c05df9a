"""The measurements of each arm: AP and usage of every run, arithmetic and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from svit_det.benchmark.detectors import count_detector
from svit_det.benchmark.timing import time_interleaved
from svit_det.comparison.arms import Arm, Recipe
from svit_det.comparison.cost import Reading
from svit_det.comparison.loading import load
from svit_det.detection.predictor import TokenPredictor
from svit_det.images import read_image
from svit_det.results import read_ended

NEAR = 0.03
"""Share by which an arm's cost may lie outside the control's costs and still be compared."""


def read_run(reading: Reading, dataset: str) -> dict[str, Any]:
    """AP and usage of one evaluated training. Raises InputError where a file of these is gone."""
    folder = reading.folder
    trained = folder if reading.keep_ratio is None else folder.parent
    found = read_ended(folder / "results.json", remove=trained)
    found = found.get(dataset, found)
    usage = read_ended(folder / "token_usage.json", remove=trained)
    kept = usage["kept_share_per_block"]
    pruned = [share < 1 for share in kept["all"]]
    first = pruned.index(True) if any(pruned) else len(pruned)
    back = usage["share_that_block_before_skipped"][first:]
    same = usage["overlap_with_block_before"][first:]
    return {
        "test_keep_ratio": reading.keep_ratio,
        "box_ap": found["bbox"]["AP"],
        "mask_ap": found["segm"]["AP"],
        "trunk_gmacs": usage["trunk_gmacs"],
        "kept": 100 * float(np.mean(kept["all"])),
        "kept_on_objects": 100 * float(np.mean(kept["inside_gt"])),
        "kept_off_objects": 100 * float(np.mean(kept["outside_gt"])),
        # Means over the blocks after the first block that skips a token; None where no block does.
        "overlap": 100 * float(np.mean(same)) if same else None,
        "returning": 100 * float(np.mean(back)) if back else None,
        "kept_share_per_block": kept["all"],
    }


@torch.no_grad()
def measure(
    recipe: Recipe,
    arms: Sequence[Arm],
    readings: Mapping[str, Mapping[int, Reading]],
    tiles: Sequence[Path],
    dataset: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, TokenPredictor]]:
    """Every arm's runs by seed with the detector's arithmetic, and the models of the first seed."""
    results: dict[str, dict[str, Any]] = {}
    models: dict[str, TokenPredictor] = {}
    for arm in tqdm(arms, desc="multiply-adds", unit="model"):
        found = readings[arm.name]
        runs = {str(seed): read_run(each, dataset) for seed, each in found.items()}
        first = next(iter(found))
        predictor = load(recipe, arm, first, arms, keep_ratio=found[first].keep_ratio)
        inputs = [[predictor.model_input(read_image(tile, "RGB"))] for tile in tiles]
        results[arm.name] = {"runs": runs, "gmacs": count_detector(predictor.model, inputs)}
        models[arm.name] = predictor
    return results, models


@torch.no_grad()
def time_arms(
    models: Mapping[str, TokenPredictor],
    tiles: Sequence[Path],
    results: dict[str, dict[str, Any]],
    *,
    baseline: str,
) -> None:
    """Time the models in turn on the same tiles, and add the times to the results."""
    first = next(iter(models.values()))
    inputs = [[first.model_input(read_image(tile, "RGB"))] for tile in tiles]
    with tqdm(total=2 * len(inputs) + 1, desc="times", unit="tile") as bar:
        timed = time_interleaved(
            {name: predictor.model for name, predictor in models.items()},
            inputs,
            repeats=2,
            device=first.model.device,
            progress=bar.update,
        )
    for name in models:
        results[name]["seconds"] = vars(timed.spread(name))
        if baseline in models:
            results[name]["speed_up_over_baseline"] = vars(timed.ratio(baseline, name))


def mean_of(found: Mapping[str, Any], key: str) -> float:
    """The mean of a number over the runs of an arm."""
    return float(np.mean([run[key] for run in found["runs"].values()]))


def budgets_of(names: Iterable[str], control: str) -> list[str]:
    """The arms that are the control at some budget, named CONTROL_ and a number."""
    return [name for name in names if name.removeprefix(f"{control}_").isdigit()]


def against_control(results: dict[str, dict[str, Any]], control: str) -> None:
    """Add each arm's distance to the control at equal cost: `over_CONTROL`, in points of AP.

    The control is every arm named CONTROL_ and a number: one policy trained at several budgets. Its
    AP at the mean multiply-adds of the other arm's trunk is interpolated linearly between two
    budgets. An arm is not compared if it costs less than the cheapest budget or more than the
    dearest by more than 3 %.
    """
    budgets = budgets_of(results, control)
    if len(budgets) < 2:
        return
    costs = np.array([mean_of(results[name], "trunk_gmacs") for name in budgets])
    order = np.argsort(costs)
    for name, found in results.items():
        cost = mean_of(found, "trunk_gmacs")
        if name in budgets or not costs.min() * (1 - NEAR) <= cost <= costs.max() * (1 + NEAR):
            continue
        distances = {}
        for key in ("box_ap", "mask_ap"):
            values = np.array([mean_of(results[each], key) for each in budgets])
            there = float(np.interp(cost, costs[order], values[order]))
            distances[key] = mean_of(found, key) - there
        found[f"over_{control}"] = distances
