"""Charts of several policies: the share that each block keeps, and quality over cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svit_det.visualization.canvas import write_image


@dataclass(frozen=True)
class Point:
    """One policy in a chart of quality over cost."""

    cost: float
    values: Sequence[float]
    """One value per run. The mark lies at their mean, a line reaches from the lowest to the
    highest."""


def draw_share_table(
    rows: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, dpi: int = 160
) -> None:
    """Writes a PNG or JPEG with one line of cells per entry of `rows`, one column per block.

    A cell shows in percent the share (0 to 1) that the block keeps. Smaller shares are darker.
    """
    table = np.array([list(row) for row in rows.values()], dtype=np.float64)
    height, width = table.shape
    figure = Figure(figsize=(1.9 + 0.42 * width, 0.7 + 0.27 * height), dpi=dpi)
    figure.set_layout_engine("constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(height, width):
        share = table[row, column]
        colour = "black" if share > 0.6 else "white"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(width))
    axes.set_yticks(range(height), list(rows))
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("block: percent of the tokens that it keeps", fontsize=8)
    axes.spines[:].set_visible(False)
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3])


def draw_quality_over_cost(
    points: Mapping[str, Point],
    path: str | os.PathLike[str],
    *,
    lines: Mapping[str, Sequence[str]],
    cost_label: str,
    value_label: str,
    dpi: int = 160,
) -> None:
    """Writes a PNG or JPEG of every point with its name.

    `lines` names the points that belong together: one policy at several budgets.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=dpi)
    figure.set_layout_engine("constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    joined = {name for members in lines.values() for name in members}
    for colour, (label, members) in zip(("0.35", "0.65"), lines.items(), strict=False):
        ordered = sorted((points[name] for name in members), key=lambda point: point.cost)
        costs, means = [p.cost for p in ordered], [float(np.mean(p.values)) for p in ordered]
        lowest, highest = [min(p.values) for p in ordered], [max(p.values) for p in ordered]
        axes.fill_between(costs, lowest, highest, color=colour, alpha=0.2, linewidth=0)
        axes.plot(costs, means, color=colour, marker="s", markersize=4, label=label)
    for number, (name, point) in enumerate(points.items()):
        if name in joined:
            continue
        mean, colour = float(np.mean(point.values)), f"C{number % 10}"
        axes.plot([point.cost] * 2, [min(point.values), max(point.values)], color=colour, lw=1)
        axes.plot(point.cost, mean, marker="o", markersize=5, color=colour)
        # Names stand above and below in turn, because many costs are nearly equal.
        shift = (5, 6 if number % 2 else -10)
        axes.annotate(
            name,
            (point.cost, mean),
            xytext=shift,
            textcoords="offset points",
            fontsize=7,
            color=colour,
        )
    axes.set_xlabel(cost_label)
    axes.set_ylabel(value_label)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3])
