"""Images on disk: finding and reading them. NumPy and Pillow only."""

from svit_det.images.find import IMAGE_SUFFIXES, find_images, spread_out
from svit_det.images.open import LARGEST_IMAGE, size_on_disk, without_warnings
from svit_det.images.read import read_image

__all__ = [
    "IMAGE_SUFFIXES",
    "LARGEST_IMAGE",
    "find_images",
    "read_image",
    "size_on_disk",
    "spread_out",
    "without_warnings",
]
