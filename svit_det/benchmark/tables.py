"""Tables of images per second, of several processes at a time, and of two checkouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from svit_det.benchmark.report import format_spread, place_columns


def throughput_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each batch size, a column for each arm: images per second, mean ± deviation."""
    headers, lines = place_columns(rows)
    arms = list(dict.fromkeys(arm for row in rows for arm in row["images_per_second"]))
    for row, line in zip(rows, lines, strict=True):
        rates = row["images_per_second"]
        line += [f"{rates[arm]['mean']:.2f} ± {rates[arm]['std']:.2f}" for arm in arms]
    return tabulate(lines, headers=[*headers, *arms], disable_numparse=True)


def processes_table(rows: Sequence[dict[str, Any]]) -> str:
    """Images per second of all processes together: medians with quartiles in brackets."""
    headers, lines = place_columns(rows)
    headers += ["processes", "dense images/s", "pruned images/s", "pruned / dense"]
    for row, line in zip(rows, lines, strict=True):
        rates = row["images_per_second"]
        line += [row["processes"], format_spread(rates["dense"]), format_spread(rates["pruned"])]
        line.append(format_spread(row["speed_up"], "x"))
    return tabulate(lines, headers=headers, disable_numparse=True)


def against_table(rows: Sequence[dict[str, Any]]) -> str:
    """This checkout's time over the older checkout's, and the difference between their maps."""
    rows = [row for row in rows if "against" in row]
    if not rows:
        return ""
    headers, lines = place_columns(rows)
    headers += ["new / old dense", "pruned", "largest difference dense", "pruned", "maps"]
    for row, line in zip(rows, lines, strict=True):
        found = row["against"]
        line += [format_spread(found["new_over_old"][arm]) for arm in ("dense", "pruned")]
        line += [f"{found['largest_difference'][arm]:.1e}" for arm in ("dense", "pruned")]
        line.append("agree" if found["agrees"] else "DIFFER")
    return tabulate(lines, headers=headers, disable_numparse=True)
