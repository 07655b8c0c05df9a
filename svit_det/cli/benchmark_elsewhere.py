"""Arms in other processes: an older checkout's, or several processes of this checkout at a time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from tqdm import tqdm

from svit_det.benchmark.throughput import time_together
from svit_det.benchmark.timing import Spread, Timings
from svit_det.benchmark.worker import Worker
from svit_det.cli.benchmark_inputs import Size, make_images
from svit_det.cli.benchmark_models import DENSE, PRUNED, Pair
from svit_det.cli.benchmark_options import DTYPES
from svit_det.cli.benchmark_parts import Part
from svit_det.cli.benchmark_worker import maps_of
from svit_det.errors import InputError
from svit_det.files import real_path
from svit_det.weights.files import save

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).resolve().with_name("benchmark_worker.py")
TOLERANCE = 1e-3
"""Largest difference at which the maps of two checkouts agree."""
OLD = "old_"
"""Beginning of the names of the older checkout's arms."""


def start(folder: Path, name: str) -> Worker:
    """A process that runs the code in `folder`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        # The worker's own folder holds modules of this checkout.
        "PYTHONSAFEPATH": "1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    command = [sys.executable, "-W", "ignore", str(PROGRAM), str(folder)]
    return Worker(command, name=name, folder=folder, environment=environment)


def config_in(folder: Path, config: str) -> str:
    """The config's counterpart in `folder`; a config outside of this checkout is read where it is.

    Raises InputError where `folder` has no such file.
    """
    path = real_path(config)
    if not path.is_relative_to(ROOT):
        return str(path)
    there = folder / path.relative_to(ROOT)
    if not there.is_file():
        raise InputError(f"--against {folder}: has no {path.relative_to(ROOT)}.")
    return str(there)


def options_of(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """The overrides that turn the yaml's policy into the policy of `cfg`."""
    policy, node = cfg.MODEL.TOKEN_POLICY, "MODEL.TOKEN_POLICY"
    options = [*args.opts, "MODEL.DEVICE", cfg.MODEL.DEVICE, f"{node}.NAME", policy.NAME]
    options += [f"{node}.WRAPPERS", repr(list(policy.WRAPPERS))]
    options += [f"{node}.SVIT.MODE", policy.SVIT.MODE]
    if args.keep_ratios:
        options += [f"{node}.KEEP_RATIOS", repr(list(args.keep_ratios))]
    return options


def ask_to_build(
    worker: Worker, part: Part, pair: Pair, args: argparse.Namespace, *, config: str, weights: Path
) -> None:
    """Ask the worker to build the part's arms with the weights in the file `weights`."""
    worker.send(
        do="build",
        config=config,
        options=options_of(pair.cfg, args),
        part=part.name,
        weights=str(weights),
        dtype=args.dtype,
        threads=torch.get_num_threads() if args.processes is None else 1,
    )


# ------------------------------------------------------------------ an older checkout


class Older:
    """The older checkout's arms of one part, with this checkout's weights and inputs."""

    def __init__(
        self, worker: Worker, part: Part, pair: Pair, args: argparse.Namespace, *, scratch: Path
    ) -> None:
        self._worker, self._part, self._scratch = worker, part, scratch
        weights = scratch / "weights.pt"
        save(part.models[pair.pruned].state_dict(), weights)
        folder = real_path(args.against)
        config = config_in(folder, args.config_file)
        ask_to_build(worker, part, pair, args, config=config, weights=weights)
        worker.receive()
        self._pair = pair

    def take(
        self, images: Sequence[Tensor], inputs: Sequence[Any]
    ) -> dict[str, Callable[[Any], float]]:
        """Functions by arm that run one of `inputs` and return the seconds that the pass took.

        `inputs` are made of `images`.
        """
        path = self._scratch / "inputs.pt"
        save(list(inputs if self._part.name == "detector" else images), path)
        self._worker.ask(do="inputs", path=str(path))
        places = {id(given): index for index, given in enumerate(inputs)}

        def run(arm: str) -> Callable[[Any], float]:
            return lambda given: self._worker.ask(do="run", arm=arm, index=places[id(given)])

        return {OLD + arm: run(arm) for arm in self._pair.arms}

    def largest_differences(
        self, given: Any, kinds: Sequence[str] = (DENSE, PRUNED)
    ) -> dict[str, float]:
        """By arm, the largest difference between the checkouts on the first input.

        The maps are compared; of a detector, the boxes and their scores.
        """
        found = {}
        for kind in kinds:
            path = self._scratch / "maps.pt"
            self._worker.ask(do="maps", arm=kind, path=str(path))
            ours = maps_of(self._part.name, self._part.runs[self._pair.arms[kind]](given))
            found[kind] = largest_difference(ours, torch.load(path))
        return found


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest absolute difference; inf where shapes differ, as with other numbers of boxes."""
    pairs = list(zip(ours, theirs, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    apart = [(one.float().cpu() - other).abs() for one, other in pairs if one.numel()]
    return max((each.max().item() for each in apart), default=0.0)


def against(timings: Timings, differences: dict[str, float]) -> dict[str, Any]:
    """A row's entries on the older checkout; a ratio below 1 means that the new code is faster."""
    return {
        "largest_difference": differences,
        "agrees": max(differences.values()) <= TOLERANCE,
        "new_over_old": {arm: vars(timings.ratio(arm, OLD + arm)) for arm in differences},
    }


# ------------------------------------------------------------------ several at a time


def start_workers(args: argparse.Namespace) -> list[Worker]:
    """As many processes of this checkout as the largest number of --processes."""
    count = max(args.processes or [0])
    return [start(ROOT, f"--processes: process {number}") for number in range(count)]


def measure_load(
    workers: Sequence[Worker],
    part: Part,
    pair: Pair,
    args: argparse.Namespace,
    batch: int,
    size: Size,
    *,
    scratch: Path,
) -> dict[str, Any]:
    """Images per second of the workers together, each with one thread and its own inputs."""
    weights = scratch / "weights.pt"
    save(part.models[pair.pruned].state_dict(), weights)
    config = str(real_path(args.config_file))
    for worker in workers:
        ask_to_build(worker, part, pair, args, config=config, weights=weights)
    for number, worker in enumerate(workers):
        worker.receive()
        path = scratch / "inputs.pt"
        save(_inputs_of(number, part, pair, args, batch, size), path)
        worker.ask(do="inputs", path=str(path))
    what = f"{part.name}, {pair.policy}, batch {batch}, {len(workers)} processes"
    with tqdm(total=args.warmup + args.repeats, desc=what, unit="turn") as bar:
        timings = time_together(
            workers,
            list(pair.arms),
            repeats=args.repeats,
            warmup=args.warmup,
            progress=bar.update,
        )
    total = len(workers) * args.images * batch
    rates = {arm: Spread.of([total / s for s in each]) for arm, each in timings.seconds.items()}
    return {
        "processes": len(workers),
        "images_per_second": {arm: vars(rate) for arm, rate in rates.items()},
        "speed_up": vars(timings.ratio(*pair.arms)),
        "raw_seconds": timings.seconds,
    }


def _inputs_of(
    number: int, part: Part, pair: Pair, args: argparse.Namespace, batch: int, size: Size
) -> list[Any]:
    """The inputs of process `number`. For blocks they are images, which the process embeds."""
    images = [
        each.to(pair.cfg.MODEL.DEVICE, DTYPES[args.dtype])
        for each in make_images(pair.cfg, args, batch, size, offset=number)
    ]
    return images if part.name == "blocks" else [part.prepare(each) for each in images]
