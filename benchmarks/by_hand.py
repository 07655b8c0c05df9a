#!/usr/bin/env python3
"""Small measurements behind README.md's remarks: sampling, masking, threads, operations and more.

    python benchmarks/by_hand.py sampling       grid_sample against table rows, forward, backward
    python benchmarks/by_hand.py masking        moving rows against a key mask, by share kept
    python benchmarks/by_hand.py joined         queries of all keys against those of some rows
    python benchmarks/by_hand.py alone --threads 2      small blocks on one thread and on all
    SVIT_DET_ALLOCATOR=system python benchmarks/by_hand.py allocator     and without the variable
    python benchmarks/by_hand.py operations     torch operations of a pass, policy by policy

Each prints a table; --threads N, by default 1; --output FILE.json keeps the table and the machine,
and replaces a file that is there with --overwrite alone.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before torch is imported

import argparse
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from svit_det.adapter.sampling import sample_maps, sample_rows
from svit_det.benchmark.arms import run_stack, with_policy
from svit_det.benchmark.report import describe_machine
from svit_det.benchmark.schedule import FixedSchedule
from svit_det.benchmark.timing import Spread, time_interleaved
from svit_det.cli.numbers import THREADS, Whole
from svit_det.cli.options import add_overwrite
from svit_det.cli.output import check_output_file
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.policies.dense import Dense
from svit_det.results import write_json
from svit_det.shipped import find_config
from svit_det.vit import Execution, Masked, Packed, TokenTrunk, build_trunk
from svit_det.vit.layers import Block
from svit_det.vit.layout import Layout

Sampled = tuple[int, Sequence[tuple[int, int]], int, int, int, int]
"""Images, levels, queries, heads, channels of a head, points."""
SAMPLED: dict[str, Sampled] = {
    "S, extractor at 800 x 1333": (1, [(50, 84)], 22050, 6, 64, 4),
    "S, injector at 800 x 1333": (1, [(100, 168), (50, 84), (25, 42)], 4200, 6, 64, 4),
    "demo, extractor, batch 4": (4, [(32, 32)], 5376, 6, 32, 4),
    "demo, injector, batch 4": (4, [(64, 64), (32, 32), (16, 16)], 1024, 6, 32, 4),
}
Sizes = Mapping[str, tuple[int, int]]
"""Width and heads by name."""
SIZES: Sizes = {"ViT-T": (192, 3), "ViT-S": (384, 6)}
VIT_S = TrunkShape(embed_dim=384, depth=12, num_heads=6)
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


def sampling(sampled: Mapping[str, Sampled] = SAMPLED, *, repeats: int = 8) -> Table:
    """Medians in ms, quartiles in brackets."""
    ways = {"maps": sample_maps, "rows": sample_rows}
    runs = {
        f"{way}, {run.__name__}": partial(run, sample)
        for run in (forward, both)
        for way, sample in ways.items()
    }
    lines = []
    for name, (batch, grids, queries, heads, channels, points) in sampled.items():
        cells = sum(height * width for height, width in grids)
        shape = (batch, queries, heads, len(grids), points)
        values = torch.randn(batch, cells, heads, channels, requires_grad=True)
        places = torch.rand(*shape, 2, requires_grad=True)
        weights = torch.rand(shape, requires_grad=True)
        given = (values, grids, places, weights)
        lines.append([name, *_medians(runs, given, repeats=repeats)])
    return ["ms", *runs], lines


def masking(
    sizes: Sizes = SIZES, sides: Sequence[int] = (8, 16, 32), *, repeats: int = 20
) -> Table:
    """Milliseconds of a block by share kept, packed / masked."""
    lines = []
    for size, (width, heads) in sizes.items():
        for side in sides:
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
                packed_masked = _medians(runs, state, blocks=4, repeats=repeats)
            pairs = zip(packed_masked[::2], packed_masked[1::2], strict=True)
            lines.append([size, side**2, *(" / ".join(pair) for pair in pairs)])
    return ["", "tokens", *(f"keep {share}" for share in SHARES)], lines


def joined(
    sizes: Sizes = SIZES,
    counts: Sequence[int] = (64, 128, 256, 512, 1024),
    *,
    repeats: int = 40,
) -> Table:
    """Milliseconds: queries with keys and values at once / for nine tenths of the rows alone."""
    lines: list[list[Any]] = []
    for size, (width, heads) in sizes.items():
        block = build_trunk(policy=Dense(), embed_dim=width, num_heads=heads, depth=1).block(0)
        ways = {"at once": partial(_at_once, block), "alone": partial(_alone, block)}
        for count in counts:
            index = torch.arange(round(0.9 * count))
            with torch.no_grad():
                pair = _medians(ways, (torch.randn(count, width), index), repeats=repeats)
            lines.append([size, count, f"{count * width**2 / 1e6:.1f}", *pair])
    return ["", "keys", "million multiply-adds", "at once", "alone"], lines


def _at_once(block: Block, given: tuple[Tensor, Tensor]) -> None:
    rows, index = given
    query, *_ = block.attn.project(block.norm1(rows), 0, 3).unbind(1)
    query.index_select(0, torch.searchsorted(torch.arange(len(rows)), index))


def _alone(block: Block, given: tuple[Tensor, Tensor]) -> None:
    rows, index = given
    block.attn.project(block.norm1(rows), 1, 3)
    block.attn.project(block.norm1(rows.index_select(0, index)), 0, 1)


def alone(
    sizes: Sizes = SIZES,
    counts: Sequence[int] = (64, 88, 128, 180, 256, 360, 512),
    *,
    depth: int = 12,
    repeats: int = 20,
) -> Table:
    """Milliseconds of a block on one thread and on all, by its rows."""
    if torch.get_num_threads() == 1:
        raise InputError("--threads 1: there is nothing to compare; give 2 or more.")
    lines: list[list[Any]] = []
    for size, (width, heads) in sizes.items():
        trunk = build_trunk(policy=Dense(), embed_dim=width, num_heads=heads, depth=depth).eval()
        ways = {str(number): partial(_on, number, trunk) for number in (1, torch.get_num_threads())}
        for count in counts:
            with torch.no_grad():
                rows = torch.randn(count, width)
                found = _medians(ways, rows, blocks=depth, repeats=repeats)
            macs = trunk.block(0).macs(count)
            lines.append([size, count, f"{macs / 1e6:.1f}", *found])
    return ["", "rows", "million multiply-adds", "one thread", "all threads"], lines


def _on(threads: int, trunk: TokenTrunk, rows: Tensor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    layout = Layout((len(rows),), (1, len(rows)))
    for block in map(trunk.block, range(trunk.depth)):
        query, key, value = block.attn.project(block.norm1(rows)).unbind(1)
        rows = rows + block.attn(query, key, value, queries=layout, keys=layout)
        rows = rows + block.mlp(block.norm2(rows))
    torch.set_num_threads(before)


def allocator(
    config: str = "svit_s", size: tuple[int, int] = (800, 1333), *, pictures: int = 4
) -> Table:
    """Seconds and page faults of pictures through the S detector, and the process's peak."""
    from detectron2.modeling import build_model

    from svit_det.detection import load_config

    model = build_model(load_config(find_config(config), ["MODEL.DEVICE", "cpu"])).eval()
    lines: list[list[Any]] = []
    for number in range(pictures):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        with torch.no_grad():
            model([{"image": 255 * torch.rand(3, *size)}])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        lines.append([number, f"{time.perf_counter() - start:.1f}", faults])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines.append(["peak", f"{peak} MiB", ""])
    return ["picture", "s", "page faults"], lines


def operations(shape: TrunkShape = VIT_S, side: int = 14) -> Table:
    """Torch operations of a pass of ViT-S's blocks over 14 x 14 tokens.

    *all* is every event that torch's profiler sees, operations inside of operations too; *outer*
    has the operations that our code calls.
    """
    lines = []
    for name in sorted(POLICY_REGISTRY.names()):
        policy = build_policy(name, shape=shape)
        trunk = build_trunk(
            policy=policy,
            embed_dim=shape.embed_dim,
            num_heads=shape.num_heads,
            depth=shape.depth,
        ).eval()
        with torch.no_grad():
            state = trunk.embed(torch.randn(1, 3, 16 * side, 16 * side))
            run = run_stack(trunk)
            run(state)
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                run(state)
        events = [event for event in seen.events() or [] if event.name.startswith("aten::")]
        outer = [event for event in events if event.cpu_parent is None]
        lines.append([name, len(events), len(outer)])
    return ["", "all", "outer"], lines


def _medians(
    runs: Mapping[str, Callable], given: Any, *, blocks: int = 1, repeats: int
) -> list[str]:
    timings = time_interleaved(runs, [given], repeats=repeats, warmup=2)
    spreads = [Spread.of([1000 * s / blocks for s in timings.seconds[name]]) for name in runs]
    return [f"{each.median:.2f} ({each.low:.2f}-{each.high:.2f})" for each in spreads]


MEASUREMENTS = {
    each.__name__: each for each in (sampling, masking, joined, alone, allocator, operations)
}


def main(argv: Sequence[str]) -> str | None:
    """Measure one thing; returns what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(MEASUREMENTS))
    parser.add_argument("--threads", action=Whole, interval=THREADS, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    add_overwrite(parser)
    try:
        args = parser.parse_args(argv)
        if args.output is not None:
            check_output_file(args.output, suffixes=(".json",), overwrite=args.overwrite)
        torch.set_num_threads(args.threads)
        head, lines = MEASUREMENTS[args.what]()
        print(tabulate(lines, head))
        if args.output is not None:
            command = shlex.join(["python", "benchmarks/by_hand.py", *argv])
            machine = describe_machine("cpu")
            write_json(
                args.output, {"command": command, "machine": machine, "head": head, "rows": lines}
            )
    except InputError as problem:
        return f"by_hand.py: {problem}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
