"""UsageScale: the colour of each number of blocks.

A trunk's first blocks keep every token, so that a scale from 0 to L would waste colours on numbers
that never occur. By default the scale covers the numbers that occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from svit_det.visualization.usage_picture import UsagePicture


@dataclass(frozen=True, kw_only=True)
class UsageScale:
    """Colours for `low` to `high` blocks, both included; L blocks in all."""

    low: int
    high: int
    layers: int
    open_below: bool = False
    """The lowest colour stands for fewer blocks than `low` too."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= self.layers:
            raise ValueError(f"{self.low} to {self.high} is no range within {self.layers} blocks.")

    @classmethod
    def over(cls, pictures: Iterable[UsagePicture]) -> UsageScale:
        """From the fewest to the most blocks that a token of these pictures went through.

        The fewest is at least the number of blocks that keep every token. Make one scale for all
        pictures that readers will compare.
        """
        depths = [(p.depth.min(), p.depth.max(), p.layers) for p in pictures]
        if not depths:
            raise ValueError("A scale needs at least one picture.")
        low, high, layers = (np.array(each) for each in zip(*depths, strict=True))
        return cls(low=int(low.min()), high=int(high.max()), layers=int(layers.max()))

    @classmethod
    def full(cls, layers: int) -> UsageScale:
        """From 0 to L, the same for every model of so many blocks."""
        return cls(low=0, high=layers, layers=layers)

    @property
    def count(self) -> int:
        """The number of colours."""
        return self.high - self.low + 1

    @property
    def colours(self) -> np.ndarray:
        """(count, 3) uint8 RGB, dark for the fewest blocks."""
        # A single value gets the bright end, because all its blocks were used.
        steps = np.linspace(0, 255, self.count).round() if self.count > 1 else np.array([255.0])
        return plasma()[steps.astype(np.uint8)]

    def paint(self, depth: np.ndarray) -> np.ndarray:
        """(...) int numbers of blocks -> (..., 3) uint8 RGB. Raises ValueError off the scale."""
        if self.open_below:
            depth = np.maximum(depth, self.low)
        if depth.min() < self.low or depth.max() > self.high:
            raise ValueError(
                f"The scale runs from {self.low} to {self.high}; the picture has "
                f"{depth.min()} to {depth.max()}."
            )
        return self.colours[depth - self.low]


def plasma() -> np.ndarray:
    """(256, 3) uint8 RGB: matplotlib's plasma, dark blue to yellow."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_PLASMA)
    return ramp.reshape(-1, 3)[:, ::-1]
