"""Charts of speed over tokens, batch sizes or processes: lines with error bars and bounds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from svit_det.visualization.canvas import write_image

# Okabe and Ito's colours, which colour-blind readers can tell apart; then grey and darker shades.
# Markers serve a grey print.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#7F7F7F", "#003B5C", "#7A3500", "#005A42", "#7A4862"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")


@dataclass(frozen=True, kw_only=True)
class SpeedLine:
    """One line of a panel; all sequences have the same length."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    """The ends of the error bars."""
    bound: Sequence[float] | None = None
    """The largest possible `y`; drawn dashed, in the line's colour."""


@dataclass(frozen=True, kw_only=True)
class SpeedPanel:
    """The content of one pair of axes."""

    label: str
    """The label of the vertical axis."""
    lines: Mapping[str, SpeedLine]
    """Lines by their names in the legend; a name has the same colour in all panels."""
    reference: float | None = None
    """The height of a horizontal line, such as 1 for as fast as dense."""


def draw_speed_chart(
    panels: Sequence[SpeedPanel],
    path: str | os.PathLike[str],
    *,
    x_label: str,
    title: str,
    tick_labels: Mapping[float, str] | None = None,
    dpi: int = 160,
) -> None:
    """Writes a PNG or JPEG with the panels side by side over one legend.

    The horizontal axis is logarithmic, with a tick at every value; `tick_labels` replaces the
    numbers at ticks. Raises InputError where the file cannot be written.
    """
    if not panels or not any(panel.lines for panel in panels):
        raise ValueError("A speed chart needs a panel with a line.")
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = dict(zip(names, zip(cycle(_COLOURS), cycle(_MARKERS)), strict=False))
    figure = Figure(figsize=(1.0 + 4.3 * len(panels), 4.4), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    handles: dict[str, Line2D] = {}
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw_panel(axes, panel, styles, handles)
        _label(axes, panel, x_label, tick_labels or {})
    if any(line.bound is not None for panel in panels for line in panel.lines.values()):
        handles["bound"] = Line2D([], [], color="0.4", linestyle="--", linewidth=1.2)
    figure.suptitle(title, fontsize="medium")
    columns = min(len(handles), 4 * len(panels) // 2 + 1)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3])


def _draw_panel(
    axes: Axes,
    panel: SpeedPanel,
    styles: Mapping[str, tuple[str, str]],
    handles: dict[str, Line2D],
) -> None:
    if panel.reference is not None:
        axes.axhline(panel.reference, color="0.6", linewidth=0.8, zorder=1)
    for number, (name, line) in enumerate(panel.lines.items()):
        colour, marker = styles[name]
        # Lines are shifted a little sideways, so that error bars of equal x do not overlap.
        shift = 1 + 0.012 * (number - (len(panel.lines) - 1) / 2)
        x, y = np.asarray(line.x, dtype=float) * shift, np.asarray(line.y, dtype=float)
        bars = np.abs(np.stack([y - np.asarray(line.low), np.asarray(line.high) - y]))
        drawn = axes.errorbar(
            x,
            y,
            yerr=bars,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            elinewidth=1.0,
            capsize=2.5,
            zorder=3,
        )
        handles.setdefault(name, drawn.lines[0])
        if line.bound is not None:
            axes.plot(x, line.bound, color=colour, linestyle="--", linewidth=1.0, zorder=2)


def _label(axes: Axes, panel: SpeedPanel, x_label: str, tick_labels: Mapping[float, str]) -> None:
    ticks = sorted({float(x) for line in panel.lines.values() for x in line.x})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [tick_labels.get(tick, f"{tick:g}") for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    # The axis has room at both sides, so that a single value still has an axis around it.
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.set_xlabel(x_label)
    axes.set_ylabel(panel.label)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
