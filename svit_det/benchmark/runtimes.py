"""The report of one model under several runtimes: ratios of times, and the table for people.

An arm is a runtime with a budget: `dense`, `static` (a fixed count of tokens) or `dynamic` (a count
that depends on the image).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from svit_det.benchmark.report import bounds_of, format_spread, place_columns
from svit_det.benchmark.timing import Timings

EAGER, DENSE, STATIC, DYNAMIC = "eager", "dense", "static", "dynamic"
OLD_EAGER_DENSE = "old eager dense"
"""The arm of an older checkout."""


def arm_name(runtime: str, budget: str) -> str:
    """The arm's name in tables and raw times."""
    return f"{runtime} {budget}"


def summarise_arms(
    timings: Timings,
    arms: Sequence[tuple[str, str]],
    *,
    macs: Sequence[Mapping[str, float]],
    kept: Mapping[str, float],
    parity: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One entry for each arm (runtime, budget). A ratio is above 1 where the arm is faster.

    `macs`: for each input, the multiply-adds by budget; an arm's bound is the median over inputs.
    `kept`: by budget, the share of tokens that the blocks keep, as the mean over blocks and inputs.
    `parity`: by arm, the difference of an exported arm from the eager model with the same budget.
    """
    found = []
    for runtime, budget in arms:
        name = arm_name(runtime, budget)
        bases = {
            "own_dense_over_this": arm_name(runtime, DENSE),
            "eager_dense_over_this": arm_name(EAGER, DENSE),
            "old_eager_dense_over_this": OLD_EAGER_DENSE,
            "static_over_this": arm_name(runtime, STATIC),
        }
        row = {"runtime": runtime, "budget": budget}
        row |= {"seconds_per_image": asdict(timings.spread(name)), "kept_share": kept[budget]}
        row["bound"] = statistics.median(bounds_of(macs, budget))
        row |= {
            key: asdict(timings.ratio(base, name)) if base in timings.seconds else None
            for key, base in bases.items()
        }
        found.append(row | {"parity": parity.get(name)})
    return found


def runtimes_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each arm of each row; figures are medians with quartiles in brackets."""
    headers, starts = place_columns(rows)
    headers += ["runtime", "budget", "kept, %", "ms", "own dense / this", "bound"]
    headers += ["eager dense / this", "old eager dense / this", "static / this", "from eager"]
    lines = []
    for row, start in zip(rows, starts, strict=True):
        for arm in row["arms"]:
            line = [*start, arm["runtime"], arm["budget"], f"{100 * arm['kept_share']:.0f}"]
            line.append(f"{1000 * arm['seconds_per_image']['median']:.1f}")
            line.append(format_spread(arm["own_dense_over_this"], "x"))
            line.append(f"x{arm['bound']:.2f}")
            line.append(format_spread(arm["eager_dense_over_this"], "x"))
            line.append(format_spread(arm["old_eager_dense_over_this"], "x"))
            static = arm["static_over_this"] if arm["budget"] == DYNAMIC else None
            line.append(format_spread(static, "x"))
            line.append("" if arm["parity"] is None else arm["parity"]["said"])
            lines.append(line)
    return tabulate(lines, headers=headers, disable_numparse=True)
