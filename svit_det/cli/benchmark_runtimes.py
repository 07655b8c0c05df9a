"""Dense and pruned under several runtimes, all in turn: eager torch and files made of the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from svit_det.benchmark.runtimes import (
    DENSE,
    EAGER,
    OLD_EAGER_DENSE,
    arm_name,
    summarise_arms,
)
from svit_det.benchmark.timing import time_interleaved
from svit_det.cli.benchmark_calibration import calibration_for
from svit_det.cli.benchmark_elsewhere import TOLERANCE, Older
from svit_det.cli.benchmark_exports import Graph
from svit_det.cli.benchmark_inputs import Size
from svit_det.cli.benchmark_measures import Bench, Row, name_row
from svit_det.cli.benchmark_parts import Part
from svit_det.export.checks import Parity
from svit_det.export.formats import INT8
from svit_det.export.variants import VARIANTS
from svit_det.vit.flops import count_macs


def measure_runtimes(bench: Bench, part: Part, size: Size) -> Row:
    """One row: every runtime under every budget, and the older checkout's dense model."""
    (pair,) = bench.found.pairs
    images = bench.images(1, size)
    inputs = [part.prepare(each) for each in images]
    budgets = list(part.runs)
    runs: dict[str, Callable[[Any], Any]] = {
        arm_name(EAGER, budget): part.runs[budget] for budget in budgets
    }
    arms, parity, kept = [(EAGER, budget) for budget in budgets], {}, {}
    names = [name for name in bench.args.runtime if name != EAGER]
    int8 = any(VARIANTS[name].precision == INT8 for name in names)
    calibration = calibration_for(bench.cfg, bench.args, size) if int8 else None
    others = calibration.images if calibration else []
    title = "{}, {} x {} pixels".format(part.name, *size)
    with tqdm(total=len(budgets) * len(names), desc=f"{title}: exports", unit="file") as bar:
        for budget in budgets:
            graph = Graph(part, budget, images, inputs, calibration=others)
            kept[budget] = graph.kept_share()
            for name, call, found in graph.exported(names, _folder(bench, part, size, budget)):
                runs[arm_name(name, budget)] = call
                parity[arm_name(name, budget)] = described(found)
                arms.append((name, budget))
                bar.update()
    old, against = {}, None
    if bench.older is not None:
        older = Older(bench.older, part, pair, bench.args, scratch=bench.scratch)
        theirs = older.take(images, inputs)
        old[OLD_EAGER_DENSE] = theirs["old_dense"]
        apart = older.largest_differences(inputs[0], [DENSE])
        against = {"largest_difference": apart, "agrees": max(apart.values()) <= TOLERANCE}
    with bench.bar(title) as bar:
        timings = time_interleaved(
            {**runs, **old}, inputs, self_timed=list(old), **bench.turning(bar)
        )
    macs = [
        {budget: count_macs(partial(part.runs[budget], given)).total for budget in budgets}
        for given in inputs
    ]
    row = name_row(bench, part, pair, 1, size)
    row["arms"] = summarise_arms(timings, arms, macs=macs, kept=kept, parity=parity)
    row["int8_calibration"] = calibration.said if calibration else None
    return row | {"against": against, "raw_seconds_per_image": timings.seconds}


def described(parity: Parity) -> dict[str, Any]:
    """The parity as a JSON object."""
    return {
        "said": str(parity),
        "largest_difference": parity.difference,
        "decisions_alike": parity.alike,
        "kept_tokens_per_block": list(parity.counts),
    }


def _folder(bench: Bench, part: Part, size: Size, budget: str) -> Path:
    folder = bench.scratch / "{}_{}x{}_{}".format(part.name, *size, budget)
    folder.mkdir()
    return folder
