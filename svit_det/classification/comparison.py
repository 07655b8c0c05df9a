"""Compares classifiers, fine-tuned alike under each policy with several seeds each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from svit_det.classification.config import load_config
from svit_det.classification.evaluation import Evaluation
from svit_det.config.same_settings import refuse_other_training
from svit_det.errors import InputError
from svit_det.files import log_of_one, make_folder
from svit_det.results import read_ended, spread, write_json
from svit_det.shipped import find_config, find_config_folder, find_weights

DONE = "trained_with.json"
"""The file with the whole config in a training's folder, written when the training has ended."""


@dataclass(frozen=True)
class Trainings:
    """The arms, the seeds and the folder of a comparison."""

    arms: Mapping[str, Path]
    """Config files by name."""
    seeds: Sequence[int]
    overrides: Sequence[str]
    output: Path

    def folder(self, arm: str, seed: int) -> Path:
        """The folder of one training."""
        return self.output / arm / f"seed_{seed}"

    def options(self, arm: str, seed: int) -> list[str]:
        """The command line's overrides of one training."""
        own = ["SOLVER.SEED", str(seed), "OUTPUT_DIR", str(self.folder(arm, seed))]
        return [*self.overrides, *own]

    def device(self) -> str:
        """The device of the trainings, which all arms share: it is no key of an arm's own."""
        arm, path = next(iter(self.arms.items()))
        return str(load_config(str(path), self.options(arm, self.seeds[0])).MODEL.DEVICE)


def arms_of(words: Iterable[str]) -> dict[str, Path]:
    """Config files by the names of their arms.

    A word is a yaml, or a folder whose yamls are all meant; both may be named as they ship, such as
    "photographs/compare". Raises InputError for a name that comes twice, and for a folder without
    yamls.
    """
    arms: dict[str, Path] = {}
    for path in (path for word in words for path in _yamls(word)):
        if path.stem in arms:
            raise InputError(f"{path}: another arm is called {path.stem} too; rename one of them.")
        arms[path.stem] = path
    return arms


def _yamls(word: str) -> list[Path]:
    folder = find_config_folder(word)
    if folder is None:
        return [Path(find_config(word))]
    found = sorted(folder.glob("*.yaml"))
    if not found:
        raise InputError(f"{word}: there is no yaml in this folder.")
    return found


def train_all(trainings: Trainings, *, program: Sequence[str]) -> None:
    """Train every arm with every seed, seed by seed; finished trainings are skipped.

    `program` is the command line that trains, without its arguments. Raises InputError for a
    training that fails, and for a folder that holds a training with other settings.
    """
    runs = [(arm, seed) for seed in trainings.seeds for arm in trainings.arms]
    for arm in trainings.arms:  # refuse what cannot begin before the first training begins
        _check(trainings, arm)
    for arm, seed in tqdm(runs, unit="training"):
        _train(trainings, arm, seed, program)


def _check(trainings: Trainings, arm: str) -> None:
    path = trainings.arms[arm]
    for seed in trainings.seeds:
        weights = load_config(str(path), trainings.options(arm, seed)).MODEL.WEIGHTS
    to_do = [s for s in trainings.seeds if not (trainings.folder(arm, s) / DONE).is_file()]
    if to_do and weights and not os.path.isfile(find_weights(weights)):
        raise InputError(f"{path}: MODEL.WEIGHTS {weights}: no such file; train the parent first.")


def _train(trainings: Trainings, arm: str, seed: int, program: Sequence[str]) -> None:
    path, options = str(trainings.arms[arm]), trainings.options(arm, seed)
    folder = trainings.folder(arm, seed)
    merged = {"config": load_config(path, options).dump()}
    record = folder / DONE
    if record.is_file():
        refuse_other_training(record, merged["config"])
        return
    make_folder(folder)
    command = [*program, "--config-file", path, "--resume", *options]
    with log_of_one(folder / "output.txt") as log:
        done = subprocess.run(
            command, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise InputError(f"Training {arm} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, merged)


def results_of(trainings: Trainings) -> dict[str, dict[str, Any]]:
    """The results of each training's evaluation, by arm and seed.

    Raises InputError for a training without results.
    """
    return {
        arm: {
            "runs": {str(seed): _results(trainings.folder(arm, seed)) for seed in trainings.seeds},
        }
        for arm in trainings.arms
    }


def _results(folder: Path) -> dict[str, Any]:
    found = read_ended(folder / "results.json", remove=folder / DONE)
    missing = [field.name for field in fields(Evaluation) if field.name not in found]
    if missing:
        raise InputError(
            f"{folder / 'results.json'}: has no '{missing[0]}'; remove {folder / DONE}, and the "
            "next comparison writes the file anew."
        )
    return found


def comparison_table(results: Mapping[str, Mapping[str, Any]], baseline: str) -> str:
    """Table 2's layout over several seeds: accuracy, distance to the baseline, arithmetic, tokens.

    The baseline comes first; the other arms are ordered by their mean top-1, the best first.
    """

    def top1(arm: str) -> float:
        return float(np.mean([run["top1"] for run in results[arm]["runs"].values()]))

    order = sorted(results, key=lambda arm: (arm != baseline, -top1(arm)))
    lines = []
    for arm in order:
        found = results[arm]
        away = "-"
        if baseline in results and arm != baseline:
            away = f"{top1(arm) - top1(baseline):+.1f}"
        tokens = np.mean([run["tokens_per_block"] for run in found["runs"].values()])
        lines.append(
            [
                arm,
                spread(found, "top1"),
                away,
                spread(found, "top5"),
                spread(found, "gmacs", 4),
                f"{tokens:.0f}",
            ]
        )
    headers = ["model", "top-1 %", "over the dense one", "top-5 %", "GFLOPs", "tokens a block"]
    return tabulate(lines, headers=headers, disable_numparse=True)
