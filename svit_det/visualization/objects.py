"""Objects: the detections or annotations of one picture, as arrays. n objects, h x w pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

SMALL, LARGE = 32**2, 96**2
"""COCO's borders between small, medium and large objects, in pixels of the picture."""
SIZES = ("small", "medium", "large")


class Masks(Protocol):
    """(n, h, w) bool: an array, or something that makes each mask when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """n, h and w."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any, /) -> Any:
        """(h, w) bool of one mask, or the masks that an array picks."""
        ...


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The detections in a picture, or its annotated objects."""

    boxes: np.ndarray
    """(n, 4) float: left, top, right, bottom in pixels of the picture."""
    classes: np.ndarray
    """(n,) int, counted from 0."""
    scores: np.ndarray | None = None
    """(n,) float from 0 to 1; None for annotations."""
    masks: Masks | None = None
    """(n, h, w) bool; None where there are boxes only."""
    names: tuple[str, ...] = ()
    """Names of the classes; empty where classes have no names."""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be ({count}, 4), not {self.boxes.shape}.")
        if self.scores is not None and self.scores.shape != (count,):
            raise ValueError(f"scores must be ({count},), not {self.scores.shape}.")
        if self.masks is not None and (len(self.masks.shape) != 3 or len(self.masks) != count):
            raise ValueError(f"masks must be ({count}, h, w), not {self.masks.shape}.")

    def __len__(self) -> int:
        return len(self.classes)

    def pick(self, which: np.ndarray) -> Objects:
        """The objects that a (n,) bool array or an index array picks."""
        return replace(
            self,
            boxes=self.boxes[which],
            classes=self.classes[which],
            scores=None if self.scores is None else self.scores[which],
            masks=None if self.masks is None else self.masks[which],
        )

    def name(self, index: int) -> str:
        """The class of one object in words."""
        number = int(self.classes[index])
        return self.names[number] if number < len(self.names) else f"class {number}"

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """(h, w) bool: the pixels of one object's mask, or of its box where there are no masks."""
        if self.masks is not None:
            mask: np.ndarray = self.masks[index]
            return mask
        left, top, right, bottom = np.clip(self.boxes[index], 0, None).round().astype(int)
        filled = np.zeros(size, bool)
        filled[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        return filled

    def covered(self, size: tuple[int, int]) -> np.ndarray:
        """(h, w) bool: the pixels of any object."""
        union = np.zeros(size, bool)
        for index in range(len(self)):
            union |= self.mask(index, size)
        return union

    def areas(self, size: tuple[int, int]) -> np.ndarray:
        """(n,) number of pixels of each object."""
        return np.array([self.mask(index, size).sum() for index in range(len(self))], int)


def size_of(area: int) -> str:
    """COCO's word for the size of an object with `area` pixels."""
    return SIZES[int(area >= SMALL) + int(area >= LARGE)]
