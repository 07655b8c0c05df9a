"""The report of a benchmark: the machine, figures derived from raw times, tables for people."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from svit_det import __version__
from svit_det.benchmark.checkout import commit_of
from svit_det.benchmark.precision import tf32_allowed
from svit_det.benchmark.timing import Spread, Timings

NEGLIGIBLE = 0.2
"""Percent of a dense block below which a decision counts as none: a hook without a decision costs
less than this."""
PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "svit_det")
RUNTIMES = ("onnx", "onnxruntime", "openvino")
"""Packages that run exported files; their versions are told where they are installed."""


def describe_machine(device: torch.device | str) -> dict[str, Any]:
    """The processor, GPU, commit, versions and settings on which timings depend."""
    device = torch.device(device)
    described = {
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "virtual": _is_virtual(),
        "load_average_at_start": _load(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": commit_of() or f"version {__version__}",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
        described["tf32"] = tf32_allowed()
    return described


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def _is_virtual() -> bool | None:
    try:
        return "hypervisor" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _versions() -> dict[str, str | None]:
    found = {name: _version(name) for name in (*PACKAGES, *RUNTIMES)}
    return {name: each for name, each in found.items() if each or name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def summarise(
    timings: Timings, *, macs: Sequence[dict[str, float]], batch_size: int
) -> dict[str, dict[str, Any]]:
    """All figures derived from the times of one group of arms and from their multiply-adds.

    `macs` holds, for each input, the multiply-adds of the whole batch for `dense` and `pruned`, and
    for `equal` and `different` where these arms were timed. The eta of a pair of calls is their
    speed-up over the bound of their own input; `bound` is the median of the inputs' bounds.
    """
    bounds = bounds_of(macs, "pruned")
    derived: dict[str, Any] = {
        "seconds_per_image": {
            arm: asdict(_scaled(timings.spread(arm), 1 / batch_size)) for arm in timings.seconds
        },
        "speed_up": asdict(timings.ratio("dense", "pruned")),
        "bound": statistics.median(bounds),
        "bound_by_input": bounds,
        "eta": asdict(timings.ratio("dense", "pruned", over=bounds)),
    }
    if "keep_all" in timings.seconds:
        derived["keep_all_over_dense"] = asdict(timings.ratio("keep_all", "dense"))
    if "one_by_one" in timings.seconds:
        derived["batch_over_one_by_one"] = asdict(timings.ratio("pruned", "one_by_one"))
    if "different" in timings.seconds:
        derived["different_counts"] = _different_counts(timings, macs)
    return derived


def _different_counts(timings: Timings, macs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The figures of the arms with fixed counts of tokens."""
    bounds = bounds_of(macs, "different")
    more_work = [each["different"] / each["equal"] for each in macs]
    per_mac = timings.ratio("different", "equal", over=more_work)
    return {
        "speed_up": asdict(timings.ratio("dense", "different")),
        "bound": statistics.median(bounds),
        "eta": asdict(timings.ratio("dense", "different", over=bounds)),
        "equal_eta": asdict(timings.ratio("dense", "equal", over=bounds_of(macs, "equal"))),
        "time_over_equal": asdict(timings.ratio("different", "equal")),
        "macs_over_equal": statistics.median(more_work),
        "time_per_mac_over_equal": asdict(per_mac),
        "batch_over_one_by_one": asdict(timings.ratio("different", "different_one_by_one")),
    }


def bounds_of(macs: Sequence[Mapping[str, float]], arm: str) -> list[float]:
    """For each input, the multiply-adds of dense over those of `arm`: the highest speed-up."""
    return [each["dense"] / each[arm] for each in macs]


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def place_columns(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Headers and the beginning of each line: part, batch, and grid and policy if these differ."""
    policies = {row.get("policy") for row in rows}
    grids = {tuple(row.get("token_grid", ())) for row in rows}
    headers, lines = ["part", "batch"], [[row["part"], row["batch_size"]] for row in rows]
    if len(grids) > 1:
        headers.append("tokens")
        lines = [[*ln, "x".join(map(str, row["token_grid"]))] for ln, row in zip(lines, rows)]
    if len(policies) > 1:
        headers.append("policy")
        lines = [[*line, row["policy"]] for line, row in zip(lines, rows)]
    return headers, lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Dense against pruned, one line per part, batch size, grid and policy.

    Figures are medians with quartiles in brackets.
    """
    headers, lines = place_columns(rows)
    headers += ["dense ms", "pruned ms", "speed-up", "bound", "eta"]
    headers += ["keep 1.0", "batch / singles", "peak MiB dense", "pruned"]
    for row, line in zip(rows, lines, strict=True):
        each = row["seconds_per_image"]
        memory = row["peak_memory_bytes"]
        line += [f"{1000 * each[arm]['median']:.1f}" for arm in ("dense", "pruned")]
        line += [
            format_spread(row["speed_up"], "x"),
            f"x{row['bound']:.3f}",
            format_spread(row["eta"]),
        ]
        line += [
            _percent(row.get("keep_all_over_dense")),
            format_spread(row.get("batch_over_one_by_one")),
        ]
        line += [_mebibytes(memory[arm]) for arm in ("dense", "pruned")]
    return tabulate(lines, headers=headers, disable_numparse=True)


def different_counts_table(rows: Sequence[dict[str, Any]]) -> str:
    """Figures of batches whose images keep different numbers of tokens; empty if not measured."""
    rows = [row for row in rows if "different_counts" in row]
    headers, lines = place_columns(rows)
    headers += ["speed-up", "bound", "eta", "equal counts: eta"]
    headers += ["time / equal", "MACs / equal", "per MAC / equal", "batch / singles"]
    for row, line in zip(rows, lines, strict=True):
        one = row["different_counts"]
        line.append(format_spread(one["speed_up"], "x"))
        line += [f"x{one['bound']:.3f}", format_spread(one["eta"]), format_spread(one["equal_eta"])]
        line += [format_spread(one["time_over_equal"]), f"{one['macs_over_equal']:.3f}"]
        line += [
            format_spread(one["time_per_mac_over_equal"]),
            format_spread(one["batch_over_one_by_one"]),
        ]
    return tabulate(lines, headers=headers, disable_numparse=True) if lines else ""


ALL_BUT_BLOCKS = "all but the blocks"


def stages_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each stage: milliseconds per batch of each arm, and the stage's arithmetic rate.

    The rate is multiply-adds over time, in percent of the rate of the pruned arm's blocks. A stage
    without multiply-adds has no rate. Empty where nothing was measured.
    """
    lines = []
    for row in rows:
        arms = {
            arm: _with_sum(stages) for arm, stages in row.get("stage_seconds_per_batch", {}).items()
        }
        macs = {arm: _sum_up(each) for arm, each in row.get("stage_macs_per_batch", {}).items()}
        for stage in next(iter(arms.values()), {}):
            line = [row["batch_size"], stage]
            for stages in arms.values():
                spread = Spread.of([1000 * seconds for seconds in stages[stage]])
                line.append(f"{spread.median:.1f} ({spread.low:.1f}-{spread.high:.1f})")
            lines.append([*line, *_rate(stage, arms["pruned"], macs.get("pruned", {}))])
    headers = ["batch", "stage", "dense ms", "pruned ms", "pruned GMACs", "rate, % of the blocks'"]
    return tabulate(lines, headers=headers, disable_numparse=True) if lines else ""


def _with_sum(stages: dict[str, list[float]]) -> dict[str, list[float]]:
    """The stages with one more: everything in a call but its blocks."""
    calls = zip(*(seconds for stage, seconds in stages.items() if stage != "blocks"), strict=True)
    return {**stages, ALL_BUT_BLOCKS: [sum(call) for call in calls]}


def _sum_up(macs: dict[str, float]) -> dict[str, float]:
    return {**macs, ALL_BUT_BLOCKS: sum(macs.values()) - macs["blocks"]}


def _rate(stage: str, seconds: dict[str, list[float]], macs: dict[str, float]) -> list[str]:
    """Giga multiply-adds of a stage, and its rate in percent of the blocks' rate."""
    if not macs.get(stage):
        return ["-", "-"]
    own, blocks = (
        macs[name] / max(Spread.of(seconds[name]).median, 1e-12) for name in (stage, "blocks")
    )
    return [f"{macs[stage] / 1e9:.2f}", f"{100 * own / blocks:.0f}"]


def decisions_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each deciding block: the time of deciding, also in percent of a dense block.

    Blocks without a decision are left out. Empty where nothing was measured.
    """
    lines = []
    for row in rows:
        found = row.get("decision_seconds_per_batch")
        if found is None:
            continue
        block = Spread.of(found["dense_block"]).median
        for layer, seconds in enumerate(found["decision_by_block"]):
            spread = _scaled(Spread.of(seconds), 1000)
            share = spread.median / (10 * block)
            if share >= NEGLIGIBLE:
                line = [row["batch_size"], layer, f"{1000 * block:.1f}"]
                line += [f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"]
                lines.append([*line, f"{share:.2f} %"])
    headers = ["batch", "block", "dense block ms", "decision ms", "of a dense block"]
    return tabulate(lines, headers=headers, disable_numparse=True) if lines else ""


def format_spread(spread: dict[str, float] | None, sign: str = "") -> str:
    """A median with its quartiles in brackets."""
    if spread is None:
        return "-"
    return f"{sign}{spread['median']:.3f} ({spread['low']:.3f}-{spread['high']:.3f})"


def _percent(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "-"
    low, middle, high = (100 * (ratio[key] - 1) for key in ("low", "median", "high"))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"
