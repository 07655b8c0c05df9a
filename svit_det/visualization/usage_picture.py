"""UsagePicture: one picture, what was found in it, and which tokens each block kept.

Pictures, report and video are all drawn from this record. It needs numpy alone, so that any code
that runs a model can fill it: detectron2, an exported file or a test.

L blocks    H, W token grid of the unpadded image    h, w pixels of the image
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from svit_det.tokens import TokenGrid
from svit_det.visualization.canvas import check_image
from svit_det.visualization.objects import Objects

KEPT, REACTIVATED, USED_LATER, SKIPPED_FOR_GOOD = range(4)
FATES = (
    "kept",
    "kept, skipped by the block before",
    "skipped, kept again later",
    "skipped for good",
)
"""The four possible fates of a token in a block, in words."""


@dataclass(frozen=True, kw_only=True)
class UsagePicture:
    """All data that drawings of one picture need."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB."""
    keep: np.ndarray
    """(L, H, W) bool: block l, counted from 0, kept this token."""
    grid: TokenGrid
    """The pixels that each token stands for, in the network's input: in general a resized image."""
    name: str = ""
    """The picture's name, for people."""
    found: Objects | None = None
    """The detections that count, in pixels of `image`."""
    annotated: Objects | None = None
    """The ground truth, where it is known."""
    attention: np.ndarray | None = None
    """(L, H, W) weights: what the class token attended to in each block."""
    macs: tuple[float, float] | None = None
    """Multiply-adds of the trunk for this picture, and of a dense trunk."""

    def __post_init__(self) -> None:
        check_image(self.image)
        check_keep(self.keep)
        if self.keep.shape[1:] != self.grid.shape:
            raise ValueError(f"keep has {self.keep.shape[1:]} tokens, its grid {self.grid.shape}.")
        if self.attention is not None and (
            self.attention.shape != self.keep.shape or not (self.attention >= 0).all()
        ):
            raise ValueError(
                f"attention must be {self.keep.shape} weights from 0 up, "
                f"not of shape {self.attention.shape}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self.image.shape[:2]
        return height, width

    @property
    def layers(self) -> int:
        """L."""
        return len(self.keep)

    @cached_property
    def depth(self) -> np.ndarray:
        """(H, W) int: the number of blocks that kept each token."""
        return depth_map(self.keep)

    @cached_property
    def first_deciding(self) -> int:
        """The first block that skips a token of this picture; L where none does."""
        decides = ~self.keep.all(axis=(1, 2))
        return int(decides.argmax()) if decides.any() else self.layers

    @cached_property
    def shares(self) -> np.ndarray:
        """(L,) share of the tokens that each block kept."""
        shares: np.ndarray = self.keep.mean(axis=(1, 2))
        return shares

    @cached_property
    def fates(self) -> np.ndarray:
        """(L, H, W) int: see `token_fates`."""
        return token_fates(self.keep)

    @cached_property
    def returns(self) -> np.ndarray:
        """(H, W) int: the number of times each token was reactivated."""
        returns: np.ndarray = (self.fates == REACTIVATED).sum(axis=0)
        return returns

    def reactivated_shares(self) -> np.ndarray:
        """(L,) share of reactivated tokens among the tokens that a block kept; 0 for block 0."""
        kept = self.keep.sum(axis=(1, 2))
        back = (self.fates == REACTIVATED).sum(axis=(1, 2))
        shares: np.ndarray = back / np.maximum(kept, 1)
        return shares

    def split(self, objects: Objects) -> np.ndarray:
        """(2, L) kept shares of the tokens on the objects, and off them; nan for no such token."""
        inside = self.grid.inside(objects.covered(self.size))
        with np.errstate(invalid="ignore"):
            return np.stack(
                [
                    (self.keep & member).sum(axis=(1, 2)) / np.float64(member.sum())
                    for member in (inside, ~inside)
                ]
            )

    def object_usage(self, objects: Objects) -> np.ndarray:
        """(n, L) kept share of each object: the share of its pixels whose token is kept, or nan."""
        rows = []
        for index in range(len(objects)):
            cover = self.grid.coverage(objects.mask(index, self.size))
            # A thin object may lie between the pixels of a shrunk network input.
            weight = cover / cover.sum() if cover.any() else np.full(cover.shape, np.nan)
            rows.append((self.keep * weight).sum(axis=(1, 2)))
        return np.array(rows, float).reshape(len(objects), self.layers)


def check_keep(keep: np.ndarray) -> None:
    """Raises ValueError for an array that holds no keep maps."""
    if keep.ndim != 3 or keep.dtype != np.bool_ or keep.size == 0:
        raise ValueError(f"keep must be bool (L, H, W), not {keep.dtype} of shape {keep.shape}.")


def depth_map(keep: np.ndarray) -> np.ndarray:
    """Counts the blocks that kept each token: (L, H, W) bool -> (H, W) int."""
    check_keep(keep)
    depth: np.ndarray = keep.sum(axis=0)
    return depth


def token_fates(keep: np.ndarray) -> np.ndarray:
    """(L, H, W) int: one of `FATES` for each token in each block."""
    check_keep(keep)
    used_from_here_on = np.logical_or.accumulate(keep[::-1], axis=0)[::-1]
    fates = np.where(keep, KEPT, np.where(used_from_here_on, USED_LATER, SKIPPED_FOR_GOOD))
    fates[1:][keep[1:] & ~keep[:-1]] = REACTIVATED
    return fates


def first_deciding(pictures: Iterable[UsagePicture]) -> int:
    """The first block that skips a token of any of the pictures."""
    return min(picture.first_deciding for picture in pictures)
