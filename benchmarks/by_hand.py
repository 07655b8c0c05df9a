#!/usr/bin/env python3
"""Small measurements behind README.md's remarks: sampling, masking, allocator, operations.

    python benchmarks/by_hand.py sampling       grid_sample against table rows, forward, backward
    python benchmarks/by_hand.py masking        moving rows against a key mask, by share kept
    SVIT_DET_ALLOCATOR=system python benchmarks/by_hand.py allocator     and without the variable
    python benchmarks/by_hand.py operations     torch operations of a pass, policy by policy

Each prints a table; --threads N, by default 1; --output FILE.json keeps the table and the machine.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from svit_det.adapter.sampling import sample_maps, sample_rows
from svit_det.benchmark.arms import run_stack, with_policy
from svit_det.benchmark.report import describe_machine
from svit_det.benchmark.schedule import FixedSchedule
from svit_det.benchmark.timing import Spread, time_interleaved
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.policies.dense import Dense
from svit_det.results import write_json
from svit_det.vit import Execution, Masked, Packed, build_trunk

SAMPLED = {  # images, levels, queries, heads, channels of a head, points
    "S, extractor at 800 x 1333": (1, [(50, 84)], 22050, 6, 64, 4),
    "S, injector at 800 x 1333": (1, [(100, 168), (50, 84), (25, 42)], 4200, 6, 64, 4),
    "demo, extractor, batch 4": (4, [(32, 32)], 5376, 6, 32, 4),
    "demo, injector, batch 4": (4, [(64, 64), (32, 32), (16, 16)], 1024, 6, 32, 4),
}
SIZES = {"ViT-T": (192, 3), "ViT-S": (384, 6)}
SHARES = (0.99, 0.95, 0.9, 0.8, 0.7, 0.5)
Table = tuple[list[str], list[list[Any]]]
"""The head of a table and its lines."""


def forward(sample: Callable, given: Any) -> None:
    """Inference."""
    with torch.no_grad():
        sample(*given)


def both(sample: Callable, given: Any) -> None:
    """A training step's share."""
    sample(*given).square().sum().backward()


def sampling() -> Table:
    """Medians in ms, quartiles in brackets."""
    ways = {"maps": sample_maps, "rows": sample_rows}
    runs = {
        f"{way}, {run.__name__}": partial(run, sample)
        for run in (forward, both)
        for way, sample in ways.items()
    }
    lines = []
    for name, (batch, grids, queries, heads, channels, points) in SAMPLED.items():
        cells = sum(height * width for height, width in grids)
        shape = (batch, queries, heads, len(grids), points)
        values = torch.randn(batch, cells, heads, channels, requires_grad=True)
        places = torch.rand(*shape, 2, requires_grad=True)
        weights = torch.rand(shape, requires_grad=True)
        lines.append([name, *_medians(runs, (values, grids, places, weights))])
    return ["ms", *runs], lines


def masking() -> Table:
    """Milliseconds of a block by share kept, packed / masked."""
    lines = []
    for size, (width, heads) in SIZES.items():
        for side in (8, 16, 32):
            trunk = build_trunk(policy=Dense(), embed_dim=width, num_heads=heads, depth=4).eval()
            with torch.no_grad():
                state = trunk.embed(torch.randn(1, 3, 16 * side, 16 * side))
            runs = {}
            for share in SHARES:
                counts = torch.full((1, 4), round(share * side**2))
                for way in (Packed(), Masked()):
                    twin = with_policy(trunk, FixedSchedule.of_counts(counts, side**2))
                    twin.execution = Execution(hard=way)
                    runs[f"{share} {way}"] = run_stack(twin)
            with torch.no_grad():
                packed_masked = _medians(runs, state, blocks=4, repeats=20)
            pairs = zip(packed_masked[::2], packed_masked[1::2], strict=True)
            lines.append([size, side**2, *(" / ".join(pair) for pair in pairs)])
    return ["", "tokens", *(f"keep {share}" for share in SHARES)], lines


def allocator() -> Table:
    """Seconds and page faults of four pictures through the S detector, and the process's peak."""
    from detectron2.modeling import build_model

    from svit_det.detection import load_config

    model = build_model(load_config("configs/svit_s.yaml", ["MODEL.DEVICE", "cpu"])).eval()
    lines: list[list[Any]] = []
    for number in range(4):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        with torch.no_grad():
            model([{"image": 255 * torch.rand(3, 800, 1333)}])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        lines.append([number, f"{time.perf_counter() - start:.1f}", faults])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines.append(["peak", f"{peak} MiB", ""])
    return ["picture", "s", "page faults"], lines


def operations() -> Table:
    """Torch operations of a pass of ViT-S's blocks over 196 tokens.

    *all* is every event that torch's profiler sees, operations inside of operations too; *outer*
    has the operations that our code calls.
    """
    shape, lines = TrunkShape(embed_dim=384, depth=12, num_heads=6), []
    for name in sorted(POLICY_REGISTRY.names()):
        policy = build_policy(name, shape=shape)
        trunk = build_trunk(policy=policy, embed_dim=384, num_heads=6, depth=12).eval()
        with torch.no_grad():
            state = trunk.embed(torch.randn(1, 3, 224, 224))
            run = run_stack(trunk)
            run(state)
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                run(state)
        events = [event for event in seen.events() or [] if event.name.startswith("aten::")]
        outer = [event for event in events if event.cpu_parent is None]
        lines.append([name, len(events), len(outer)])
    return ["", "all", "outer"], lines


def _medians(
    runs: Mapping[str, Callable], given: Any, *, blocks: int = 1, repeats: int = 8
) -> list[str]:
    timings = time_interleaved(runs, [given], repeats=repeats, warmup=2)
    spreads = [Spread.of([1000 * s / blocks for s in timings.seconds[name]]) for name in runs]
    return [f"{each.median:.2f} ({each.low:.2f}-{each.high:.2f})" for each in spreads]


MEASUREMENTS = {each.__name__: each for each in (sampling, masking, allocator, operations)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=sorted(MEASUREMENTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    head, lines = MEASUREMENTS[args.what]()
    print(tabulate(lines, head))
    if args.output is not None:
        command = shlex.join(["python", *sys.argv])
        machine = describe_machine("cpu")
        write_json(args.output, {"command": command, "machine": machine, "head": head, "rows": lines})
