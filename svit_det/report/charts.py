"""Charts as SVG text: lines over blocks and bars over groups, in the colours of the page.

Every text goes through markupsafe, so that HTML in a class name is drawn as plain text. Colours are
CSS variables, from --arm0 on, which the page sets for light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 460, 280
LETTER = 7.5
"""Width of a letter of a chart's text, in the mean."""
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 40
MAX_NAME = 16


@dataclass(frozen=True, kw_only=True)
class Line:
    """One share per block, optionally with a band around the line."""

    label: str
    values: np.ndarray
    """(L,) from 0 to 1; nan leaves a gap."""
    arm: int
    dashed: bool = False
    band: np.ndarray | None = None
    """(2, L) lower and upper edge."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One share per group, for one model."""

    label: str
    values: Sequence[float]
    counts: Sequence[int]
    arm: int


def line_chart(lines: Sequence[Line], *, title: str) -> Markup:
    """Shares over blocks; `title` is for screen readers."""
    layers = max(len(line.values) for line in lines)
    high = _top(np.concatenate([line.values for line in lines]))

    def point(block: float, share: float) -> str:
        return f"{_x(block, layers):.1f},{_y(share, high):.1f}"

    parts = [_share_axis(high)]
    step = 1 if layers <= 16 else -(-layers // 12)
    for block in range(0, layers, step):
        parts.append(_text(_x(block, layers), HEIGHT - BOTTOM + 16, str(block), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "block", "middle"))
    for line in lines:
        if line.band is not None:
            low, top = line.band
            outline = [point(b, v) for b, v in enumerate(top)]
            outline += [point(b, v) for b, v in reversed(list(enumerate(low)))]
            parts.append(
                Markup('<polygon class="band arm{}" points="{}"/>').format(
                    line.arm, " ".join(outline)
                )
            )
        dash = " dashed" if line.dashed else ""
        for run in _runs(line.values):
            points = " ".join(point(b, line.values[b]) for b in run)
            parts.append(
                Markup('<polyline class="line arm{}{}" points="{}"/>').format(
                    line.arm, dash, points
                )
            )
            for block in run:
                parts.append(
                    Markup(
                        '<circle class="dot arm{}" cx="{:.1f}" cy="{:.1f}" r="3.2">'
                        "<title>{}, block {}: {:.1f} %</title></circle>"
                    ).format(
                        line.arm,
                        _x(block, layers),
                        _y(line.values[block], high),
                        line.label,
                        block,
                        100 * line.values[block],
                    )
                )
    return _svg(parts, HEIGHT, title)


def bar_chart(groups: Sequence[str], bars: Sequence[Bars], *, title: str) -> Markup:
    """Kept share of each group: a horizontal bar for each model, with share and count beside."""
    thick, gap, left = 15, 14, 118
    each = len(bars) * (thick + 2) + gap
    height = TOP + each * len(groups) + 10
    parts: list[Markup] = []
    pairs = [pair for bar in bars for pair in zip(bar.values, bar.counts, strict=True)]
    longest = max((len(_words(*pair)) for pair in pairs), default=0)
    room = WIDTH - left - 16 - LETTER * longest
    for row, group in enumerate(groups):
        top = TOP + row * each
        middle = top + len(bars) * (thick + 2) / 2 + 4
        name = group if len(group) <= MAX_NAME else group[: MAX_NAME - 1] + "…"
        parts.append(_text(left - 8, middle, name, "end"))
        for index, bar in enumerate(bars):
            share, count = bar.values[row], bar.counts[row]
            y, words = top + index * (thick + 2), _words(share, count)
            width = room * share if count else 0
            parts.append(
                Markup('<rect class="ground" x="{}" y="{}" width="{}" height="{}"/>').format(
                    left, y, room, thick
                )
            )
            parts.append(
                Markup(
                    '<rect class="bar arm{}" x="{}" y="{}" width="{:.1f}" height="{}">'
                    "<title>{}, {}: {}</title></rect>"
                ).format(bar.arm, left, y, width, thick, bar.label, group, words)
            )
            parts.append(_text(left + room + 8, y + thick - 3, words, "start"))
    return _svg(parts, height, title)


def _words(share: float, count: int) -> str:
    """What stands beside a bar."""
    if not count:
        return "none"
    return f"{100 * share:.0f} %, {count:,} object{'' if count == 1 else 's'}"


def _top(values: np.ndarray) -> float:
    """The end of the axis: a round share that is at least every value."""
    high = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    return next((each for each in (0.1, 0.25, 0.5) if high <= each), 1.0)


def _x(block: float, layers: int) -> float:
    room = WIDTH - LEFT - RIGHT - 24
    return LEFT + 12 + room * (block / max(layers - 1, 1) if layers > 1 else 0.5)


def _y(share: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share / high


def _share_axis(high: float) -> Markup:
    parts = []
    for share in np.linspace(0, high, 6):
        y = _y(float(share), high)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                LEFT, WIDTH - RIGHT, y, y
            )
        )
        parts.append(_text(LEFT - 6, y + 4, f"{100 * share:.0f} %", "end"))
    return Markup("").join(parts)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, words
    )


def _runs(values: np.ndarray) -> list[list[int]]:
    """Runs of consecutive blocks that have a value."""
    runs: list[list[int]] = []
    for block, value in enumerate(values):
        if not np.isfinite(value):
            continue
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _svg(parts: Sequence[Markup], height: int, title: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, title, Markup("").join(parts))
