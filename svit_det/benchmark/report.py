"""What a benchmark says: the machine, figures derived from raw times, a table for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from svit_det.benchmark.timing import Spread, Timings

NEGLIGIBLE = 0.2
"""Percent of a dense block that only saying "everyone" or "as before" may cost."""
PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "svit_det")


def describe_machine(device: torch.device | str) -> dict[str, Any]:
    """Processor, GPU, versions and settings that timings depend on."""
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
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
        described["tf32"] = torch.backends.cuda.matmul.allow_tf32
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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def summarise(
    timings: Timings, *, macs: dict[str, float], batch_size: int
) -> dict[str, dict[str, Any]]:
    """Everything derived from the times of one group of arms and their multiply-adds.

    `macs` holds those of the whole batch, for `dense`, `pruned` and where there are such arms
    `equal` and `different`.
    """
    bound = macs["dense"] / macs["pruned"]
    speed_up = timings.ratio("dense", "pruned")
    derived: dict[str, Any] = {
        "seconds_per_image": {
            arm: asdict(_scaled(timings.spread(arm), 1 / batch_size)) for arm in timings.seconds
        },
        "speed_up": asdict(speed_up),
        "bound": bound,
        "eta": asdict(_scaled(speed_up, 1 / bound)),
    }
    if "keep_all" in timings.seconds:
        derived["keep_all_over_dense"] = asdict(timings.ratio("keep_all", "dense"))
    if "one_by_one" in timings.seconds:
        derived["batch_over_one_by_one"] = asdict(timings.ratio("pruned", "one_by_one"))
    if "different" in timings.seconds:
        slower = timings.ratio("different", "equal")
        more_work = macs["different"] / macs["equal"]
        different_bound = macs["dense"] / macs["different"]
        different_speed_up = timings.ratio("dense", "different")
        derived["different_counts"] = {
            "speed_up": asdict(different_speed_up),
            "bound": different_bound,
            "eta": asdict(_scaled(different_speed_up, 1 / different_bound)),
            "equal_eta": asdict(
                _scaled(timings.ratio("dense", "equal"), macs["equal"] / macs["dense"])
            ),
            "time_over_equal": asdict(slower),
            "macs_over_equal": more_work,
            "time_per_mac_over_equal": asdict(_scaled(slower, 1 / more_work)),
            "batch_over_one_by_one": asdict(timings.ratio("different", "different_one_by_one")),
        }
    return derived


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Dense against pruned, one line per part and batch size: medians, quartiles in brackets."""
    headers = ["part", "batch", "dense ms", "pruned ms", "speed-up", "bound", "eta"]
    headers += ["keep 1.0", "batch / singles", "peak MiB dense", "pruned"]
    lines = []
    for row in rows:
        each = row["seconds_per_image"]
        memory = row["peak_memory_bytes"]
        line = [row["part"], row["batch_size"]]
        line += [f"{1000 * each[arm]['median']:.1f}" for arm in ("dense", "pruned")]
        line += [_spread(row["speed_up"], "x"), f"x{row['bound']:.3f}", _spread(row["eta"])]
        line += [
            _percent(row.get("keep_all_over_dense")),
            _spread(row.get("batch_over_one_by_one")),
        ]
        line += [_mebibytes(memory[arm]) for arm in ("dense", "pruned")]
        lines.append(line)
    return tabulate(lines, headers=headers, disable_numparse=True)


def different_counts_table(rows: Sequence[dict[str, Any]]) -> str:
    """Batches whose images keep different numbers of tokens; empty where none was measured."""
    headers = ["part", "batch", "speed-up", "bound", "eta", "equal counts: eta"]
    headers += ["time / equal", "MACs / equal", "per MAC / equal", "batch / singles"]
    lines = []
    for row in rows:
        if "different_counts" not in row:
            continue
        one = row["different_counts"]
        line = [row["part"], row["batch_size"], _spread(one["speed_up"], "x")]
        line += [f"x{one['bound']:.3f}", _spread(one["eta"]), _spread(one["equal_eta"])]
        line += [_spread(one["time_over_equal"]), f"{one['macs_over_equal']:.3f}"]
        line += [_spread(one["time_per_mac_over_equal"]), _spread(one["batch_over_one_by_one"])]
        lines.append(line)
    return tabulate(lines, headers=headers, disable_numparse=True) if lines else ""


def stages_table(rows: Sequence[dict[str, Any]]) -> str:
    """Stages down, arms across, milliseconds per batch; empty where none was measured."""
    lines = []
    for row in rows:
        arms = row.get("stage_seconds_per_batch", {})
        for stage in next(iter(arms.values()), {}):
            line = [row["batch_size"], stage]
            for stages in arms.values():
                spread = Spread.of([1000 * seconds for seconds in stages[stage]])
                line.append(f"{spread.median:.1f} ({spread.low:.1f}-{spread.high:.1f})")
            lines.append(line)
    headers = ["batch", "stage", "dense ms", "pruned ms"]
    return tabulate(lines, headers=headers, disable_numparse=True) if lines else ""


def decisions_table(rows: Sequence[dict[str, Any]]) -> str:
    """Blocks down: what deciding costs, and that in percent of a dense block; empty if unmeasured.

    Blocks in which nothing is decided are left out.
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


def _spread(spread: dict[str, float] | None, sign: str = "") -> str:
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
