"""Flips of images of any shape."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T


class FlipOfAnyShape(T.RandomFlip):
    """RandomFlip that also works for images with a side of one pixel.

    A flip is a view that runs backwards. NumPy calls the view contiguous if the flipped side is one
    pixel long. fvcore, which flips by torch, then passes the view to torch, and torch refuses it.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The flip of this image, or no transform."""
        transform = super().get_transform(image)
        if isinstance(transform, T.NoOpTransform):
            return transform
        return T.TransformList([CopyTransform(), transform, CopyTransform()])


class CopyTransform(T.NoOpTransform):
    """Copies pixels and masks, so that they run forwards in memory."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """A copy."""
        return img.copy()

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """A copy."""
        return segmentation.copy()
