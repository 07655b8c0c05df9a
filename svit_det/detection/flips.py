"""Flips of images of any shape."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T


class FlipOfAnyShape(T.RandomFlip):
    """RandomFlip for images with a side of one pixel too.

    A flip is a view that runs backwards. NumPy calls it contiguous where that side is one pixel
    long, so that fvcore, which flips by torch, hands torch the view, and torch refuses it.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The flip of this image, or none."""
        transform = super().get_transform(image)
        if isinstance(transform, T.NoOpTransform):
            return transform
        return T.TransformList([CopyTransform(), transform])


class CopyTransform(T.NoOpTransform):
    """The same pixels, forwards in memory."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """A copy."""
        return img.copy()
