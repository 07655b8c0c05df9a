"""Classifiers fine-tuned alike under every policy, several seeds each: trainings, means, tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from svit_det.classification.config import load_config
from svit_det.errors import InputError
from svit_det.results import write_json

DONE = "trained_with.json"
"""In a training's folder once it has ended, with the whole config."""


@dataclass(frozen=True)
class Trainings:
    """Which arms with which seeds, and where."""

    arms: Mapping[str, Path]
    """Config files by name."""
    seeds: Sequence[int]
    overrides: Sequence[str]
    output: Path

    def folder(self, arm: str, seed: int) -> Path:
        """Of one training."""
        return self.output / arm / f"seed_{seed}"

    def options(self, arm: str, seed: int) -> list[str]:
        """The command line's overrides of one training."""
        own = ["SOLVER.SEED", str(seed), "OUTPUT_DIR", str(self.folder(arm, seed))]
        return [*self.overrides, *own]


def arms_of(files: Iterable[str]) -> dict[str, Path]:
    """Config files by the names of their arms. Raises InputError for one that is named twice."""
    arms: dict[str, Path] = {}
    for each in files:
        path = Path(each)
        if path.stem in arms:
            raise InputError(f"{each}: another arm is called {path.stem} too; rename one of them.")
        arms[path.stem] = path
    return arms


def train_all(trainings: Trainings, *, program: Path) -> None:
    """Every arm with every seed, seed by seed; what is done is left alone.

    `program` is train_classifier.py. Raises InputError for a training that fails, and for a folder
    that holds a training with other settings.
    """
    runs = [(arm, seed) for seed in trainings.seeds for arm in trainings.arms]
    for arm in trainings.arms:  # refuse what cannot be trained before anything is
        load_config(str(trainings.arms[arm]), trainings.options(arm, trainings.seeds[0]))
    for arm, seed in tqdm(runs, unit="training"):
        _train(trainings, arm, seed, program)


def _train(trainings: Trainings, arm: str, seed: int, program: Path) -> None:
    path, options = str(trainings.arms[arm]), trainings.options(arm, seed)
    folder = trainings.folder(arm, seed)
    # The whole config, because a yaml file may have changed since.
    merged = {"config": load_config(path, options).dump()}
    record = folder / DONE
    if record.is_file():
        if json.loads(record.read_text()) == merged:
            return
        raise InputError(f"{folder} holds a training with other settings: name another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(program), "--config-file", path, "--resume", *options]
    with open(folder / "output.txt", "w") as log:
        done = subprocess.run(
            command, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise InputError(f"Training {arm} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, merged)


def results_of(trainings: Trainings) -> dict[str, dict[str, Any]]:
    """What each training's evaluation found, by arm and seed."""
    return {
        arm: {
            "runs": {
                str(seed): json.loads((trainings.folder(arm, seed) / "results.json").read_text())
                for seed in trainings.seeds
            },
        }
        for arm in trainings.arms
    }


def spread(found: Mapping[str, Any], key: str, digits: int) -> str:
    """Mean over the seeds, smallest and largest in brackets."""
    values = [run[key] for run in found["runs"].values()]
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def comparison_table(results: Mapping[str, Mapping[str, Any]], baseline: str) -> str:
    """Table 2's layout over several seeds: accuracy, distance to the baseline, arithmetic, tokens.

    Arms come by their mean top-1, the baseline first.
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
                spread(found, "top1", 1),
                away,
                spread(found, "top5", 1),
                spread(found, "gmacs", 4),
                f"{tokens:.0f}",
            ]
        )
    headers = ["model", "top-1 %", "over the dense one", "top-5 %", "GFLOPs", "tokens a block"]
    return tabulate(lines, headers=headers, disable_numparse=True)
