"""The trainings of a comparison: each runs once, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from tqdm import tqdm

from svit_det.comparison.arms import Arm, Recipe, options_of, run_folder
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.files import make_folder, open_log
from svit_det.results import write_json

PATIENCE = 2
"""Seconds that trainings get to end by themselves after an interrupt."""


def train_all(
    arms: Sequence[Arm], seeds: Sequence[int], recipe: Recipe, *, jobs: int, program: Sequence[str]
) -> None:
    """Train every arm with every seed, seed by seed, `jobs` at a time; skip finished trainings.

    `program` is the command line that trains, without its arguments. Raises InputError for a
    training that fails, and for a folder that holds a training with other settings.
    """
    runs = [(arm, seed) for seed in seeds for arm in arms]
    threads = max(torch.get_num_threads() // jobs, 1)
    processes: set[subprocess.Popen] = set()

    def train(arm: Arm, seed: int) -> None:
        settings = [str(arm.config_file), *options_of(recipe, arm, seed, arms)]
        folder = run_folder(recipe, arm, seed)
        _train(arm, seed, folder, settings, program, threads, processes)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="training") as bar:
        futures = [pool.submit(train, *run) for run in runs]
        try:
            for future in futures:
                future.result()
                bar.update()
        except BaseException as stop:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(stop, Exception):
                _end(futures, processes)
            raise


def _end(futures: Sequence[Future], processes: set[subprocess.Popen]) -> None:
    """End the trainings that run. A terminal's Ctrl-C has reached them, but another one has not."""
    begun = [future for future in futures if not future.cancelled()]  # no cancelled one gets done
    while wait(begun, timeout=PATIENCE).not_done:
        for process in list(processes):
            process.terminate()


def _train(
    arm: Arm,
    seed: int,
    folder: Path,
    settings: Sequence[str],
    program: Sequence[str],
    threads: int,
    processes: set[subprocess.Popen],
) -> None:
    """Run one fine-tuning with its evaluation, unless it has been done already."""
    record = folder / "trained_with.json"
    # The whole config is compared, because a yaml file may have changed since.
    merged = {"settings": list(settings), "config": load_config(settings[0], settings[1:]).dump()}
    if record.is_file():
        if json.loads(record.read_text()) == merged:
            return
        raise InputError(f"{folder} holds a training with other settings: name another --output.")
    make_folder(folder)
    # Remains of an interrupted training are overwritten.
    command = [*program, "--overwrite", "--config-file", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with (
        open_log(folder / "output.txt") as log,
        subprocess.Popen(command, env=environment, stdout=log, **streams) as process,
    ):
        processes.add(process)
        failed = process.wait()
        processes.remove(process)
    if failed:
        raise InputError(f"Training {arm.name} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, merged)
