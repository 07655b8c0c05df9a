"""One frame of the film: detections and heat map side by side, usage over time below.

Everything that is the same in all frames is drawn once: the ground, the colour bar and the words.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from svit_det.visualization import UsagePicture, UsageScale, draw_objects, paint_heatmap
from svit_det.visualization.canvas import blend, fitting, label
from svit_det.visualization.heatmap import ALPHA

Colour = tuple[int, int, int]
GROUND: Colour = (20, 23, 26)
PLOT: Colour = (29, 33, 37)
INK: Colour = (232, 234, 236)
SOFT: Colour = (167, 174, 182)
GRID: Colour = (58, 65, 72)
LINES: tuple[tuple[str, Colour], ...] = (
    ("all tokens", (232, 234, 236)),
    ("on detections", (242, 161, 84)),
    ("off detections", (98, 181, 240)),
)
PANEL = 800
"""Pixels of the longer side of one of the two pictures."""


@dataclass(kw_only=True)
class FilmFrames:
    """Draws the frames of one film, in order."""

    image_size: tuple[int, int]
    """(height, width) of the film's own frames."""
    total: int | None
    """The number of frames to come; None: unknown, and the time axis grows."""
    fps: float
    """Frames per second of the film that is drawn."""
    scale: UsageScale
    caption: str = ""
    """The words at the bottom, which name the weights."""
    panel: int = PANEL
    _history: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = min(max(12, self.panel // 50), 18)
        self.gap = self.text // 2 * 2
        self.panel_size = fitting(self.image_size, (self.panel, self.panel))
        self.slot = max(self.panel_size[1], 18 * self.text)
        line, height = label("Ag", self.text, 99).shape[0], self.panel_size[0]
        self._bar_width = 3 * self.text
        width = 2 * self.slot + self._bar_width + 4 * self.gap
        self._tops = (self.gap, self.gap + line + self.gap // 2)
        strip_top = self._tops[1] + height + self.gap + line + self.gap // 2
        self._strip = (strip_top, 4 * self.text + 2 * self.gap)
        total = strip_top + self._strip[1] + line + line // 2 + self.gap
        self.size = (total + total % 2, width + width % 2)
        self._ground = self._draw_ground()

    def draw(self, picture: UsagePicture) -> np.ndarray:
        """(height, width, 3) uint8 of `size`, for the next frame of the film."""
        frame = self._ground.copy()
        self._history.append(_usage(picture))
        found = picture.found
        count = 0 if found is None else len(found)
        detections = (
            draw_objects(picture.image, found, self.panel_size, text=self.text)
            if found is not None
            else cv2.resize(picture.image, self.panel_size[::-1])
        )
        heat = paint_heatmap(picture, self.panel_size, scale=self.scale)
        words = (
            f"{count} detection{'' if count == 1 else 's'}",
            f"blocks per token: {100 * picture.shares.mean():.0f} % of all block runs",
        )
        for index, (panel, text) in enumerate(zip((detections, heat), words, strict=True)):
            left = self.gap + index * (self.slot + self.gap)
            paste(frame, panel, self._tops[1], left)
            self._write(frame, text, self._tops[0], left, INK, self.slot)
        self._draw_lines(frame)
        return frame

    def _draw_ground(self) -> np.ndarray:
        ground = np.full((*self.size, 3), GROUND, np.uint8)
        self._draw_bar(ground)
        top, height = self._strip
        left, right = self._axis()
        ground[top : top + height, left:right] = PLOT
        for share in (0.0, 0.5, 1.0):
            row = self._row(share)
            ground[row, left:right] = GRID
            words = label(f"{100 * share:.0f} %", self.text, 99, ink=SOFT, paper=GROUND)
            paste(ground, words, row - len(words) // 2, left - words.shape[1] - self.gap // 2)
        at = left
        row = top - label("Ag", self.text, 99).shape[0] - self.gap // 4
        self._write(ground, "tokens kept", row, self.gap, SOFT, 9 * self.text)
        at += 8 * self.text
        for name, colour in LINES:
            cv2.line(
                ground,
                (at, row + self.text // 2 + 2),
                (at + 24, row + self.text // 2 + 2),
                colour,
                3,
            )
            at += 32 + self._write(ground, name, row, at + 32, SOFT, 12 * self.text) + 2 * self.gap
        row = top + height + self.gap // 3
        if self.total:
            seconds = f"{self.total / self.fps:.1f} s"
            width = label(seconds, self.text, 999).shape[1]
            self._write(ground, seconds, row, right - width, SOFT, width)
            self._write(ground, "0 s", row, left, SOFT, 99)
        self._write(
            ground, self.caption, row, left + 5 * self.text, SOFT, right - left - 12 * self.text
        )
        return ground

    def _draw_bar(self, ground: np.ndarray) -> None:
        """Draw the colour bar, as high as the pictures."""
        left = 2 * self.slot + 3 * self.gap
        height, count = self.panel_size[0], self.scale.count
        swatches = blend(np.full(3, 128.0), self.scale.colours, ALPHA)[::-1]
        rows = np.minimum(np.arange(height) * count // height, count - 1)
        paste(ground, np.repeat(swatches[rows][:, None], self.text, axis=1), self._tops[1], left)
        for number, row in ((self.scale.high, 0), (self.scale.low, height - self.text - 4)):
            words = f"≤{number}" if row and self.scale.open_below else str(number)
            self._write(
                ground, words, self._tops[1] + row, left + self.text + 3, SOFT, 3 * self.text
            )

    def _draw_lines(self, frame: np.ndarray) -> None:
        left, right = self._axis()
        length = max(self.total or 0, len(self._history), 2)
        columns = left + np.arange(len(self._history)) * (right - left - 1) / (length - 1)
        table = np.array(self._history)
        for index in (2, 1, 0):
            known = np.isfinite(table[:, index])
            starts = np.flatnonzero(np.diff(known.astype(int), prepend=0) == 1)
            ends = np.flatnonzero(np.diff(known.astype(int), append=0) == -1) + 1
            for start, end in zip(starts, ends, strict=True):
                rows = [self._row(share) for share in table[start:end, index]]
                line = np.stack([columns[start:end].round(), rows], axis=1).astype(np.int32)
                cv2.polylines(frame, [line], False, LINES[index][1], 2, cv2.LINE_AA)
        now, top = int(columns[-1]), self._strip[0]
        frame[top : top + self._strip[1], now : now + 1] = SOFT

    def _axis(self) -> tuple[int, int]:
        return self.gap + 4 * self.text, self.size[1] - self.gap

    def _row(self, share: float) -> int:
        top, height = self._strip
        inner = height - 2 * (self.text // 2)
        return round(top + self.text // 2 + (1 - share) * inner)

    def _write(
        self, frame: np.ndarray, words: str, top: int, left: int, ink: Colour, room: int
    ) -> int:
        """Write words on the ground; return their width in pixels."""
        if not words:
            return 0
        line = label(words, self.text, room, ink=ink, paper=GROUND)
        paste(frame, line, top, left)
        return line.shape[1]


def paste(frame: np.ndarray, picture: np.ndarray, top: int, left: int) -> None:
    """Lay a picture into the frame; parts that stick out are cut off."""
    top, left = max(top, 0), max(left, 0)
    room = frame[top : top + picture.shape[0], left : left + picture.shape[1]]
    room[:] = picture[: room.shape[0], : room.shape[1]]


def film_scale(first: UsagePicture) -> UsageScale:
    """The scale of the whole film: from the first frame's first deciding block to all blocks.

    Later frames are not known yet. Numbers below the scale get the lowest colour.
    """
    low = min(first.first_deciding, first.layers)
    return UsageScale(low=low, high=first.layers, layers=first.layers, open_below=True)


def _usage(picture: UsagePicture) -> np.ndarray:
    """(3,) kept share of all tokens, on the detections, off them."""
    on = off = np.float64("nan")
    if picture.found is not None and len(picture.found):
        on, off = picture.split(picture.found).mean(axis=1)
    return np.array([picture.shares.mean(), on, off])
