"""The trainings of a comparison: each runs once, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

import torch
from tqdm import tqdm

from svit_det.comparison.arms import Arm, Recipe, options_of, run_folder
from svit_det.config.same_settings import refuse_other_training
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.files import log_of_one, make_folder
from svit_det.results import write_json

PATIENCE = 4
"""Seconds that trainings get for each way of ending them."""


def train_all(
    arms: Sequence[Arm], seeds: Sequence[int], recipe: Recipe, *, jobs: int, program: Sequence[str]
) -> None:
    """Train every arm with every seed, seed by seed, `jobs` at a time; skip finished trainings.

    `program` is the command line that trains, without its arguments. Raises InputError for a
    training that fails, and for a folder that holds a training with other settings. Ctrl-C and
    SIGTERM end the trainings too.
    """
    runs = [(arm, seed) for seed in seeds for arm in arms]
    processes = _Processes(program, threads=max(torch.get_num_threads() // jobs, 1))

    def train(arm: Arm, seed: int) -> None:
        settings = [str(arm.config_file), *options_of(recipe, arm, seed, arms)]
        _train(arm, seed, run_folder(recipe, arm, seed), settings, processes)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="training") as bar:
        try:
            for future in [pool.submit(train, *run) for run in runs]:
                future.result()
                bar.update()
        except BaseException as stop:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(stop, Exception):
                processes.end()
            raise


def _train(
    arm: Arm, seed: int, folder: Path, settings: Sequence[str], processes: _Processes
) -> None:
    """Run one fine-tuning with its evaluation, unless it has been done already."""
    record = folder / "trained_with.json"
    merged = {"settings": list(settings), "config": load_config(settings[0], settings[1:]).dump()}
    if record.is_file():
        refuse_other_training(record, merged["config"])
        return
    make_folder(folder)
    # Remains of an interrupted training are overwritten.
    arguments = ["--overwrite", "--config-file", *settings]
    if processes.run(arguments, folder / "output.txt"):
        raise InputError(f"Training {arm.name} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, merged)


class _Processes:
    """The processes that train now. Once they have been ended, no other one begins."""

    def __init__(self, program: Sequence[str], *, threads: int) -> None:
        """program: the words before the arguments; threads: of each process."""
        self._program = list(program)
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._lock = Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._ended = False

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run a training, with its output in the file `log`; returns its exit status."""
        with log_of_one(log) as file:
            with self._lock:
                if self._ended:
                    return -signal.SIGINT
                process = subprocess.Popen(
                    [*self._program, *arguments],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
                self._running.append(process)
            return process.wait()

    def end(self) -> None:
        """End all processes, ever more forcefully. A terminal's Ctrl-C has reached them already."""
        with self._lock:
            self._ended = True
        for number in (0, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            end = time.monotonic() + PATIENCE
            for process in self._running:
                process.send_signal(number)  # 0 sends nothing; one that has ended is left alone
            for process in self._running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(end - time.monotonic(), 0))
