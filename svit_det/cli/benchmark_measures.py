"""The figures of one part at one batch size and one size of image."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from tqdm import tqdm

from svit_det.benchmark import arms as compared
from svit_det.benchmark.decisions import time_decisions
from svit_det.benchmark.memory import peak_memory
from svit_det.benchmark.report import summarise
from svit_det.benchmark.stages import stage_macs, time_stages
from svit_det.benchmark.throughput import images_per_second
from svit_det.benchmark.timing import Timings, time_interleaved
from svit_det.benchmark.training import count_training_macs
from svit_det.benchmark.worker import Worker
from svit_det.cli.again import command_again
from svit_det.cli.benchmark_elsewhere import Older, against, measure_load
from svit_det.cli.benchmark_inputs import Size, make_images
from svit_det.cli.benchmark_models import DENSE, PRUNED, Pair
from svit_det.cli.benchmark_options import DTYPES, STAGED
from svit_det.cli.benchmark_parts import Compared, Part
from svit_det.vit.flops import count_macs

Row = dict[str, Any]
Counted = tuple[Row, list[dict[str, float]]]
"""Entries of a row, and for each input the multiply-adds of its batch by arm."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A run of the benchmark: its parts and pairs, its options, a folder for temporary files."""

    args: argparse.Namespace
    found: Compared
    argv: Sequence[str]
    """The words of the command line; `forward_memory` starts the benchmark with them again."""
    scratch: Path
    older: Worker | None = None

    @property
    def cfg(self) -> CfgNode:
        """The first policy's config, for keys that have the same value under every policy."""
        return self.found.pairs[0].cfg

    @property
    def device(self) -> str:
        """The device that the arms run on."""
        return self.cfg.MODEL.DEVICE

    def turning(self, bar: tqdm) -> dict[str, Any]:
        """The options of `time_interleaved`."""
        options = {"repeats": self.args.repeats, "warmup": self.args.warmup, "device": self.device}
        return {**options, "progress": bar.update}

    def bar(self, title: str) -> tqdm:
        """A progress bar over all turns."""
        turns = self.args.warmup + self.args.images * self.args.repeats
        return tqdm(total=turns, desc=title, unit="turn")

    def images(self, batch: int, size: Size) -> list[Tensor]:
        """The batches (B, 3, height, width) on the device, in the dtype of the run."""
        dtype = DTYPES[self.args.dtype]
        return [i.to(self.device, dtype) for i in make_images(self.cfg, self.args, batch, size)]


def name_row(bench: Bench, part: Part, pair: Pair, batch: int, size: Size) -> Row:
    """The entries that begin every row. `dense_arm` names the dense model of the policy's pair."""
    grid = [side // bench.found.patch_size for side in size]
    row = {"part": part.name, "batch_size": batch, "policy": pair.policy, "token_grid": grid}
    return {**row, "dense_arm": pair.dense}


def measure(bench: Bench, part: Part, batch: int, size: Size) -> list[Row]:
    """Measure speed-ups, costs and details, one row for each policy; all arms take turns."""
    args, images = bench.args, bench.images(batch, size)
    inputs = [part.prepare(each) for each in images]
    runs: dict[str, Callable[[Any], Any]] = dict(part.runs)
    counted = count_arms(bench, part, inputs, batch)
    if batch > 1:
        runs.pop("keep_all", None)  # this arm is measured at batch 1 only
    if batch > 1 and not args.policies and part.name != "training":
        runs["one_by_one"] = compared.one_by_one(runs[PRUNED], part.split)
        if part.name == "blocks":
            (row, by_input), *_ = counted.values()
            fixed = add_schedules(part.models[DENSE], runs, row, inputs[0][DENSE], args)
            for macs in by_input:
                macs |= fixed
    older, differences = {}, {}
    if bench.older is not None:
        (pair,) = bench.found.pairs
        theirs = Older(bench.older, part, pair, args, scratch=bench.scratch)
        older = theirs.take(images, inputs)
        differences = theirs.largest_differences(inputs[0])
    with bench.bar(f"{part.name}, batch {batch}") as bar:
        timings = time_interleaved(
            {**runs, **older}, inputs, self_timed=list(older), **bench.turning(bar)
        )
    rows = []
    for pair in bench.found.pairs:
        found, by_input = counted[pair.pruned]
        row = name_row(bench, part, pair, batch, size) | found
        row["macs_per_image"] = {
            arm: mean(macs[arm] for macs in by_input) / batch for arm in by_input[0]
        }
        own = timings_of(timings, pair)
        row |= summarise(own, macs=by_input, batch_size=batch)
        if older:
            row["against"] = against(own, differences)
        row |= costs(bench, part, pair, inputs[0], batch, size)
        row["raw_seconds_per_batch"] = own.seconds
        rows.append(row)
    add_details(bench, part, inputs, rows)
    return rows


def timings_of(timings: Timings, pair: Pair) -> Timings:
    """Timings under the names that `summarise` knows.

    In a run of several policies they are those of the pair; else those of every arm.
    """
    if pair.arms == {DENSE: DENSE, PRUNED: PRUNED}:
        return timings
    return Timings({name: timings.seconds[arm] for name, arm in pair.arms.items()})


def count_arms(bench: Bench, part: Part, inputs: Sequence[Any], batch: int) -> dict[str, Counted]:
    """By pruned arm: what was counted on every input, of which the counts of tokens may differ."""
    pairs = bench.found.pairs
    if part.name == "blocks":
        return {pair.pruned: count_stacks(part, pair, inputs, batch) for pair in pairs}
    count = count_training_macs if part.name == "training" else lambda run: count_macs(run).total
    arms = {
        # Without heads, the dense model does the same work for every picture.
        **{pair.dense: inputs if part.name == "detector" else inputs[:1] for pair in pairs},
        **{pair.pruned: inputs for pair in pairs},
    }
    macs = {
        arm: [count(partial(part.runs[arm], given)) for given in own] for arm, own in arms.items()
    }
    return {
        pair.pruned: (
            {},
            [
                {DENSE: dense, PRUNED: pruned}
                for dense, pruned in zip(cycle(macs[pair.dense]), macs[pair.pruned])
            ],
        )
        for pair in pairs
    }


def count_stacks(part: Part, pair: Pair, inputs: Sequence[Any], batch: int) -> Counted:
    """What the blocks alone compute and keep."""
    trunk = part.models[pair.pruned]
    passes = [compared.count_stack(trunk, given[pair.dense]) for given in inputs]
    kept = torch.cat([record.counts() for _, record in passes])
    row = {
        "bound_if_deciding_were_free": median(macs.bound_of_blocks for macs, _ in passes),
        "kept_tokens_per_block": kept.float().mean(dim=0).tolist(),
    }
    return row, [
        {DENSE: macs.dense_stack * batch, PRUNED: int(macs.stack.sum())} for macs, _ in passes
    ]


def add_schedules(
    trunk: Any,
    runs: dict[str, Callable[[Any], Any]],
    row: Row,
    state: Any,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Put the arms with equal and different counts into `runs`; returns their multiply-adds."""
    batch, num_tokens = state.patches.shape[:2]
    mean_counts = [round(count) for count in row["kept_tokens_per_block"]]
    trunks, run_alone, counts = compared.schedule_arms(
        trunk, mean_counts, batch, num_tokens, args.count_spread
    )

    def on_states(run: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
        return lambda states: run(states[DENSE])

    runs |= {name: on_states(compared.run_stack(each)) for name, each in trunks.items()}
    runs["different_one_by_one"] = on_states(run_alone)
    row["different_counts_kept"] = counts.tolist()
    return {
        name: int(compared.count_stack(each, state)[0].stack.sum()) for name, each in trunks.items()
    }


def costs(bench: Bench, part: Part, pair: Pair, given: Any, batch: int, size: Size) -> Row:
    """Peak memory of both arms, and how often a pass of each waits for the device."""
    found: Row = {"host_syncs_per_forward": {}, "peak_memory_bytes": {}}
    for kind, arm in pair.arms.items():
        run = partial(part.runs[arm], given)
        found["host_syncs_per_forward"][kind] = compared.count_host_syncs(run, bench.device)
        found["peak_memory_bytes"][kind] = (
            None if bench.args.no_memory else forward_memory(bench, part, arm, run, batch, size)
        )
    return found


def forward_memory(
    bench: Bench, part: Part, arm: str, run: Callable[[], Any], batch: int, size: Size
) -> int | None:
    """Peak memory of one pass; on a CPU in a process of its own, see peak_memory.

    In that process glibc returns every large buffer as soon as it is freed. The peak is then the
    peak of the memory in use, without the freed memory that a heap retains.
    """
    if torch.device(bench.device).type != "cpu":
        return peak_memory(run, bench.device)
    command = command_again("benchmark", python=("-W", "ignore"))
    command += ["--memory-of", part.name, arm, str(batch), "{}x{}".format(*size), *bench.argv]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def add_details(bench: Bench, part: Part, inputs: Sequence[Any], rows: Sequence[Row]) -> None:
    """Add stages and decisions to the rows, where the options ask for them."""
    if bench.args.stages and part.name in STAGED:
        arms = dict.fromkeys(arm for pair in bench.found.pairs for arm in pair.arms.values())
        models = {arm: part.models[arm] for arm in arms}
        with bench.bar(f"stages of the {part.name}") as bar:
            timed = time_stages(models, inputs, runs=part.runs, **bench.turning(bar))
        for pair, row in zip(bench.found.pairs, rows, strict=True):
            row["stage_seconds_per_batch"] = {kind: timed[a] for kind, a in pair.arms.items()}
            row["stage_macs_per_batch"] = {
                kind: stage_macs(models[a], inputs) for kind, a in pair.arms.items()
            }
    if bench.args.decisions and part.name == "blocks":
        for pair, row in zip(bench.found.pairs, rows, strict=True):
            states = [given[pair.dense] for given in inputs]
            trunks = [part.models[arm] for arm in pair.arms.values()]
            with bench.bar(f"decisions of {pair.policy}") as bar:
                timed = time_decisions(*trunks, states, **bench.turning(bar))
            row["decision_seconds_per_batch"] = timed


def measure_throughput(bench: Bench, part: Part, batch: int, size: Size) -> Row:
    """Images per second of every dense model and every policy, which take turns."""
    pairs = bench.found.pairs
    arms = dict.fromkeys(arm for pair in pairs for arm in pair.arms.values())
    inputs = [part.prepare(each) for each in bench.images(batch, size)]
    with bench.bar(f"{part.name}, batch {batch}") as bar:
        timings = time_interleaved(
            {arm: part.runs[arm] for arm in arms}, inputs, **bench.turning(bar)
        )
    grid = [side // bench.found.patch_size for side in size]
    return {
        "part": part.name,
        "batch_size": batch,
        "token_grid": grid,
        "images_per_second": images_per_second(timings, batch),
        "raw_seconds_per_batch": timings.seconds,
    }


def measure_processes(
    bench: Bench, part: Part, batch: int, size: Size, workers: Sequence[Worker]
) -> list[Row]:
    """Images per second of all `workers` at the same time, one row for each policy."""
    return [
        name_row(bench, part, pair, batch, size)
        | measure_load(workers, part, pair, bench.args, batch, size, scratch=bench.scratch)
        for pair in bench.found.pairs
    ]
