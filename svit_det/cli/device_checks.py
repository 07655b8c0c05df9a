"""Checks that need the device itself: laws, waits, ragged attention, captured and compiled graphs.

    svit-det device-checks [--device cuda] [--toy] [--output DIR]
    svit-det device-checks --collect DIR --output DIR

The first command writes device_checks.json; a check that the device cannot run says so in that
file. The second command puts every results.json and device_checks.json below a folder into one
dated file. `benchmarks/gpu.sh` runs both commands, and the benchmarks between them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from svit_det.benchmark.device_checks import (
    NO_GPU,
    Case,
    check_graphs,
    check_host_syncs,
    check_laws,
    on_cuda,
    time_compiled,
    time_ragged_attention,
)
from svit_det.benchmark.precision import tf32_allowed, without_tf32
from svit_det.benchmark.report import describe_machine
from svit_det.benchmark.timing import Spread
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import COUNT, Whole
from svit_det.cli.options import add_device, add_output
from svit_det.cli.output import check_output, refuse_input
from svit_det.config.reading import check_device
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TrunkShape
from svit_det.results import write_json

LAW_CASE = Case(TrunkShape(192, 12, 3), (16, 16), batch=4)
TOY_CASE = Case(TrunkShape(24, 12, 3), (4, 6), patch_size=8)
FULL_CASE = Case(TrunkShape(384, 12, 6), (50, 84), batch=1)
"""The case for timed attention and for compiled blocks: ViT-S at COCO's size."""
RAGGED, TOY_RAGGED = (1120, 784, 549, 1600), (11, 7, 5, 16)
TOLERANCE = 1e-3
"""Largest difference between the ways of running a trunk in float32; TF32 would exceed it."""
COMPILED = ("Dense", "SViT", "EViT")
"""The policies whose compiled trunks are timed: autotuning takes most of a minute for each."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_device(parser)
    add("--toy", action="store_true", help="tiny sizes: whether the checks run at all")
    timed = "turns of what is timed"
    add("--repeats", action=Whole, interval=COUNT, default=10, help=timed)
    add("--collect", metavar="DIR", help="put the results below this folder into one file instead")
    add_output(parser, "folder for the JSON file", default="output/device_checks")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Check, or collect; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check, or collect; returns what is in the file."""
    check_output(args.output, (), overwrite=True)
    if args.collect is None:
        return run_checks(args)
    path = collect(Path(args.collect), Path(args.output))
    print(f"Collected: {path}")
    return {"output": str(path)}


@without_tf32()
def run_checks(args: argparse.Namespace) -> dict[str, Any]:
    """Run every check without TF32 of either kind; the file is written after each."""
    device = args.device
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device, key="--device")
    found: dict[str, Any] = {
        "command": shlex.join(["python", "tools/device_checks.py", *args.argv]),
        "machine": describe_machine(device),
        "device": device,
        "tf32": tf32_allowed(),
    }
    checks = checks_of(device, toy=args.toy, repeats=args.repeats)
    path = Path(args.output) / "device_checks.json"
    for name, check in tqdm(checks.items(), unit="check"):
        found[name] = check()
        write_json(path, found)
    report(found)
    print(f"All figures: {path}")
    check_tolerance(found["laws"])
    return found


def checks_of(device: str, *, toy: bool, repeats: int) -> dict[str, Callable[[], Any]]:
    """The checks by name, in the order in which they run: the longest comes last."""
    small = replace(TOY_CASE if toy else LAW_CASE, device=device)
    large = replace(TOY_CASE if toy else FULL_CASE, device=device)
    half = replace(large, dtype=torch.bfloat16)
    lengths = TOY_RAGGED if toy else RAGGED
    names = POLICY_REGISTRY.names()
    return {
        "laws": lambda: check_laws(small, names),
        "host_syncs": lambda: check_host_syncs(small, names),
        "graphs": lambda: check_graphs(small, names),
        "attention_float32": lambda: time_ragged_attention(large, lengths, repeats=repeats),
        "attention_bfloat16": lambda: time_ragged_attention(half, lengths, repeats=repeats),
        "compiled": lambda: (
            time_compiled(large, COMPILED, repeats=repeats)
            if on_cuda(device)
            else {"skipped": NO_GPU}
        ),
    }


def check_tolerance(laws: dict[str, dict[str, float]]) -> None:
    """Raise InputError that names the policies whose ways of running differ too much."""
    broken = [
        f"{name} ({way} {difference:.1e})"
        for name, ways in laws.items()
        for way, difference in ways.items()
        if not difference <= TOLERANCE
    ]
    if broken:
        raise InputError(f"The laws do not hold on this device: {', '.join(broken)}.")


def report(found: dict[str, Any]) -> None:
    """Print tables for people."""
    ways = ("masked", "padded", "single")
    syncs, graphs = found["host_syncs"], found["graphs"]
    rows = [
        [
            name,
            *(f"{laws[way]:.1e}" for way in ways),
            ", ".join(f"{kind}: {'-' if n is None else n}" for kind, n in syncs[name].items()),
            graphs.get(name, "-"),
        ]
        for name, laws in found["laws"].items()
    ]
    head = ["policy", *(f"packed - {way}" for way in ways), "host waits", "replayed graph equal"]
    print(tabulate(rows, head))
    for key in ("attention_float32", "attention_bfloat16"):
        timed = found[key]
        rows = [
            [way, f"{1e3 * Spread.of(seconds).median:.3f}", f"{timed['difference'][way]:.1e}"]
            for way, seconds in timed["seconds"].items()
        ]
        print(f"\n{timed['lengths']} rows, {timed['dtype']}")
        print(tabulate(rows, ["attention", "ms", "difference"]))
        for way, reason in timed["missing"].items():
            print(f"{way}: {reason}.")
    if "skipped" in found["compiled"]:
        print(f"\nCaptured and compiled graphs: {found['compiled']['skipped']}.")
    else:
        rows = [
            [name, *(f"{each['ratio'][key]:.2f}" for key in ("median", "low", "high"))]
            for name, each in found["compiled"].items()
        ]
        print(tabulate(rows, ["eager / max-autotune", "median", "low", "high"]))


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file. Raises InputError for a file that holds anything else."""
    try:
        if not path.is_file():  # reading from a pipe could wait forever
            raise OSError("a folder, a pipe or a link that leads nowhere")
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise InputError(f"{path}: is no JSON file ({reason}); remove it.") from problem
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no results by name; remove it.")
    return found


def collect(source: Path, target: Path) -> Path:
    """Write one dated file with every results.json and device_checks.json below `source`."""
    found = sorted([*source.rglob("results.json"), *source.rglob("device_checks.json")])
    if not found:
        raise InputError(f"--collect {source}: holds no results.json or device_checks.json.")
    today = datetime.date.today().isoformat()
    contents = {}
    for path in found:
        contents[str(path.relative_to(source))] = read_results(path)
    first = next(iter(contents.values()))
    device = "cuda" if str(first.get("device", "cpu")).startswith("cuda") else "cpu"
    path = target / f"{today}_{device}_checks.json"
    refuse_input(path, found)
    write_json(path, {"date": today, "machine": first.get("machine"), "files": contents})
    return path
