"""The distributions over the set, as figures: a chart, its caption, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from svit_det.report.charts import Bars, Line, bar_chart, line_chart
from svit_det.report.statistics import ArmStatistics
from svit_det.visualization.objects import SIZES

MAX_CLASSES = 20
"""Number of classes that are drawn, the most frequent ones."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with heading, caption, legend and numbers."""

    heading: str
    caption: str
    chart: Markup
    keys: Sequence[tuple[str, int, bool]]
    """(label, number of the model's colour, dashed) of each line or bar."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The numbers, as text."""


def set_charts(arms: Sequence[ArmStatistics]) -> list[Figure]:
    """All figures for which there are data."""
    figures = [kept_by_block(arms), reactivated_by_block(arms)]
    if any(np.isfinite(arm.on_and_off).all() for arm in arms):
        figures.insert(1, on_and_off(arms))
    if any(arm.objects for arm in arms):
        figures.append(by_size(arms))
        figures.append(by_class(arms))
    return figures


def kept_by_block(arms: Sequence[ArmStatistics]) -> Figure:
    """The mean over pictures, with a band from quartile to quartile."""
    lines = [
        Line(label=arm.label, values=arm.shares[1], arm=number, band=arm.shares[::2])
        for number, arm in enumerate(arms)
    ]
    return _lines(
        lines,
        "Tokens kept by each block",
        "Share of the tokens, mean over the pictures; the band holds the middle half of them.",
    )


def on_and_off(arms: Sequence[ArmStatistics]) -> Figure:
    """The kept share on the objects and off them."""
    lines = []
    for number, arm in enumerate(arms):
        on, off = arm.on_and_off
        name = f"{arm.label}, " if len(arms) > 1 else ""
        lines.append(Line(label=f"{name}on objects", values=on, arm=number))
        lines.append(Line(label=f"{name}off objects", values=off, arm=number, dashed=True))
    return _lines(
        lines,
        "On objects and off them",
        f"Objects are those of the {arms[0].object_source}. A token is on an object where objects "
        "cover at least half of its pixels.",
    )


def reactivated_by_block(arms: Sequence[ArmStatistics]) -> Figure:
    """The share of reactivated tokens."""
    lines = [
        Line(label=arm.label, values=arm.reactivated, arm=number) for number, arm in enumerate(arms)
    ]
    return _lines(
        lines,
        "Reactivated tokens",
        "Share of the tokens kept by a block that the block before skipped.",
    )


def by_size(arms: Sequence[ArmStatistics]) -> Figure:
    """The kept share by COCO's three sizes of objects."""
    return _bars(
        arms,
        SIZES,
        [arm.by_size() for arm in arms],
        "Kept share by size of the object",
        "Small: below 32 x 32 pixels; large: from 96 x 96 pixels. Share of all blocks' runs, mean "
        f"over objects of the {arms[0].object_source}.",
    )


def by_class(arms: Sequence[ArmStatistics]) -> Figure:
    """The kept share by class; the classes are the most frequent ones over all models."""
    tables = [arm.by_class() for arm in arms]
    names = list(dict.fromkeys(name for table in tables for name in table))
    total = {name: sum(table.get(name, (0, 0))[1] for table in tables) for name in names}
    names = sorted(names, key=lambda name: (-total[name], name))
    left = len(names) - MAX_CLASSES
    more = f" {left} rarer classes are left out." if left > 0 else ""
    return _bars(
        arms,
        names[:MAX_CLASSES],
        tables,
        "Kept share by class",
        f"Mean over objects of the {arms[0].object_source}, the most frequent class first.{more}",
    )


def _lines(lines: Sequence[Line], heading: str, caption: str) -> Figure:
    layers = max(len(line.values) for line in lines)
    rows = [
        [str(block), *(_percent(line.values, block) for line in lines)] for block in range(layers)
    ]
    return Figure(
        heading=heading,
        caption=caption,
        chart=line_chart(lines, title=heading),
        keys=[(line.label, line.arm, line.dashed) for line in lines],
        columns=["block", *(line.label for line in lines)],
        rows=rows,
    )


def _percent(values: np.ndarray, block: int) -> str:
    known = block < len(values) and np.isfinite(values[block])
    return f"{100 * values[block]:.1f} %" if known else "–"


def _bars(
    arms: Sequence[ArmStatistics],
    groups: Sequence[str],
    tables: Sequence[dict[str, tuple[float, int]]],
    heading: str,
    caption: str,
) -> Figure:
    nothing = (float("nan"), 0)
    bars = [
        Bars(
            label=arm.label,
            values=[table.get(group, nothing)[0] for group in groups],
            counts=[table.get(group, nothing)[1] for group in groups],
            arm=number,
        )
        for number, (arm, table) in enumerate(zip(arms, tables, strict=True))
    ]
    rows = [
        [
            group,
            *(
                cell
                for bar in bars
                for cell in (_percent(np.array(bar.values), i), str(bar.counts[i]))
            ),
        ]
        for i, group in enumerate(groups)
    ]
    columns = ["", *(cell for bar in bars for cell in (bar.label, "objects"))]
    return Figure(
        heading=heading,
        caption=caption,
        chart=bar_chart(groups, bars, title=heading),
        keys=[(bar.label, bar.arm, False) for bar in bars],
        columns=columns,
        rows=rows,
    )
