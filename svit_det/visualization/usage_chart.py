"""A line chart of the share of tokens that each block kept: inside objects, outside, all."""

import os
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from svit_det.visualization.canvas import write_image

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers serve a grey print.
_STYLES = (
    ("#000000", "o", "-"),
    ("#D55E00", "^", "-"),
    ("#0072B2", "s", "-"),
    ("#009E73", "D", "--"),
    ("#CC79A7", "v", "--"),
    ("#E69F00", "P", "--"),
)


def draw_usage_chart(
    rows: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    size: tuple[float, float] = (6.4, 3.6),
    dpi: int = 200,
) -> None:
    """Writes a PNG or JPEG with one line per entry of `rows`.

    A row holds L shares in 0..1, block 0 first; its key goes into the legend. A share that does
    not exist is NaN and leaves a gap, such as the share inside objects of a picture without
    objects. `size` is width and height in inches. Raises InputError where the file cannot be
    written.
    """
    if not rows:
        raise ValueError("A usage chart needs at least one row.")
    table = {name: np.asarray(row, dtype=np.float64) for name, row in rows.items()}
    lengths = {row.shape for row in table.values()}
    if len(lengths) != 1 or any(row.ndim != 1 or row.size == 0 for row in table.values()):
        raise ValueError("Every row must hold one share per block, the same number of blocks.")
    for name, row in table.items():
        if np.any((row < 0) | (row > 1)):
            raise ValueError(f"Shares must lie between 0 and 1, but row {name!r} has others.")

    # A separate Figure instead of pyplot shares nothing, and needs no window system.
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, row), (colour, marker, line) in zip(table.items(), cycle(_STYLES), strict=False):
        axes.plot(
            np.arange(row.size),
            100 * row,
            color=colour,
            marker=marker,
            linestyle=line,
            linewidth=1.6,
            markersize=5,
            label=name,
            clip_on=False,  # markers at 0 and 100 % are drawn whole
            zorder=3,
        )
    axes.set_xlim(-0.4, next(iter(lengths))[0] - 0.6)
    axes.set_ylim(0, 100)
    axes.set_xlabel("block")
    axes.set_ylabel("tokens kept")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # The legend lies outside the axes, where no line can pass behind it.
    figure.legend(loc="outside lower center", ncols=min(len(table), 3), frameon=False)
    if title is not None:
        axes.set_title(title, fontsize="medium")
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3])
