"""The trainings of a comparison: each runs once, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from svit_det.comparison.arms import Arm, Recipe, options_of, run_folder
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.results import write_json


def train_all(
    arms: Sequence[Arm], seeds: Sequence[int], recipe: Recipe, *, jobs: int, program: Sequence[str]
) -> None:
    """Train every arm with every seed, seed by seed, `jobs` at a time; skip finished trainings.

    `program` is the command line that trains, without its arguments. Raises InputError for a
    training that fails, and for a folder that holds a training with other settings.
    """
    runs = [(arm, seed) for seed in seeds for arm in arms]
    threads = max(torch.get_num_threads() // jobs, 1)

    def train(arm: Arm, seed: int) -> None:
        settings = [str(arm.config_file), *options_of(recipe, arm, seed, arms)]
        _train(arm, seed, run_folder(recipe, arm, seed), settings, program, threads)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="training") as bar:
        for future in [pool.submit(train, *run) for run in runs]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            bar.update()


def _train(
    arm: Arm, seed: int, folder: Path, settings: Sequence[str], program: Sequence[str], threads: int
) -> None:
    """Run one fine-tuning with its evaluation, unless it has been done already."""
    record = folder / "trained_with.json"
    # The whole config is compared, because a yaml file may have changed since.
    merged = {"settings": list(settings), "config": load_config(settings[0], settings[1:]).dump()}
    if record.is_file():
        if json.loads(record.read_text()) == merged:
            return
        raise InputError(f"{folder} holds a training with other settings: name another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    # Remains of an interrupted training are overwritten.
    command = [*program, "--overwrite", "--config-file", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(folder / "output.txt", "w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InputError(f"Training {arm.name} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, merged)
