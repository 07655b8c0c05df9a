"""TokenGrid: how the pixels of an image are cut into tokens. No other module rounds sizes up.

H, W token grid    h, w pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svit_det.errors import InputError

Size = tuple[int, int]
"""(height, width)."""
Values = TypeVar("Values", np.ndarray, Tensor)
INSIDE_SHARE = 0.5
"""A token is inside when objects cover at least this share of its pixels."""


@dataclass(frozen=True)
class TokenGrid:
    """Which pixels each token of an image stands for.

    The last row and column may stick out of the image.
    """

    input_size: Size
    """(height, width) of the image in pixels, as the network sees it."""
    patch_size: int
    """Pixels per token and side."""

    def __post_init__(self) -> None:
        if min(*self.input_size, self.patch_size) < 1:
            raise InputError(
                f"An image of {self.input_size} pixels in patches of {self.patch_size} has no "
                "token; all three must be at least 1."
            )

    @classmethod
    def of_tokens(cls, height: int, width: int, *, patch_size: int = 1) -> TokenGrid:
        """The grid of height x width whole tokens."""
        return cls((height * patch_size, width * patch_size), patch_size)

    @property
    def shape(self) -> Size:
        """(H, W)."""
        height, width = self.input_size
        return -(-height // self.patch_size), -(-width // self.patch_size)

    @property
    def num_tokens(self) -> int:
        """N = H * W."""
        height, width = self.shape
        return height * width

    def to_pixels(self, values: Values, image_size: Size) -> Values:
        """(..., H, W) -> (..., h, w): each pixel gets the value of the token its centre lies in.

        `image_size` is the (h, w) of the picture; the network's input may have another size.
        Raises ValueError for values of another grid.
        """
        if min(image_size) < 1:
            raise ValueError(f"image_size must be at least 1 pixel a side, not {image_size}.")
        if tuple(values.shape[-2:]) != self.shape:
            raise ValueError(
                f"An input of {self.input_size} pixels in patches of {self.patch_size} has "
                f"{self.shape} tokens, which the shape {tuple(values.shape)} does not end in."
            )
        # Pixel i has its centre at (i + 1/2) * input / image input pixels; whole numbers keep it
        # exact.
        rows, columns = (
            (2 * np.arange(drawn, dtype=np.int64) + 1) * seen // (2 * drawn * self.patch_size)
            for drawn, seen in zip(image_size, self.input_size, strict=True)
        )
        if isinstance(values, Tensor):
            down, across = (torch.from_numpy(each).to(values.device) for each in (rows, columns))
            return values[..., down[:, None], across]
        return values[..., rows[:, None], columns]

    def coverage(self, mask: Values) -> Values:
        """(h, w) mask, in the picture's pixels -> (H, W) float: covered share of each token.

        Pixels beyond the image, in tokens that stick out, do not count.
        """
        if isinstance(mask, np.ndarray):
            covered: np.ndarray = self._coverage(torch.from_numpy(mask)).numpy()
            return covered
        return self._coverage(mask)

    def inside(self, mask: Values) -> Values:
        """(h, w) mask -> (H, W) bool: the mask covers at least `INSIDE_SHARE` of the token."""
        return self.coverage(mask) >= INSIDE_SHARE

    def _coverage(self, mask: Tensor) -> Tensor:
        resized = F.interpolate(
            mask[None, None].float(), size=self.input_size, mode="nearest-exact"
        )
        height, width = self.input_size
        padding = (0, -width % self.patch_size, 0, -height % self.patch_size)
        area = F.avg_pool2d(F.pad(torch.ones_like(resized), padding), self.patch_size)
        covered = F.avg_pool2d(F.pad(resized, padding), self.patch_size)
        return (covered / area)[0, 0]
