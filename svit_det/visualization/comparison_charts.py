"""Charts of several policies: the share that each block keeps, and quality over cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from svit_det.visualization.canvas import write_image

PLACES = (
    *(((6, 6), "left"), ((6, -12), "left"), ((-6, 6), "right"), ((-6, -12), "right")),
    *(((6, 16), "left"), ((6, -22), "left")),
)
"""Where a name may stand: points of 1/72 inch from its mark, and the side that lies there."""


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
    named = []
    for number, (name, point) in enumerate(points.items()):
        if name in joined:
            continue
        mean, colour = float(np.mean(point.values)), f"C{number % 10}"
        axes.plot([point.cost] * 2, [min(point.values), max(point.values)], color=colour, lw=1)
        axes.plot(point.cost, mean, marker="o", markersize=5, color=colour)
        named.append((name, (point.cost, mean), colour))
    axes.set_xlabel(cost_label)
    axes.set_ylabel(value_label)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    canvas.draw()  # from here on the axes keep their place
    _write_names(axes, named)
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3])


def _write_names(axes: Axes, named: Iterable[tuple[str, tuple[float, float], str]]) -> None:
    """Write each name beside its point: the first place where it covers no mark and no name."""
    named = list(named)
    marks = axes.transData.transform([place for _, place, _ in named]) if named else ()
    taken = [Bbox.from_extents(x - 8, y - 8, x + 8, y + 8) for x, y in marks]
    for name, place, colour in named:
        for shift, side in PLACES:
            written = axes.annotate(
                name,
                place,
                xytext=shift,
                textcoords="offset points",
                ha=side,
                fontsize=7,
                color=colour,
            )
            box = written.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            if (shift, side) != PLACES[-1]:
                written.remove()
        taken.append(box)
