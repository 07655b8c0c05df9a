"""Pictures from disk, memory, films and cameras. Needs NumPy and Pillow only; films need OpenCV."""

from svit_det.images.find import IMAGE_SUFFIXES, find_images, spread_out
from svit_det.images.open import LARGEST_IMAGE, size_on_disk, without_warnings
from svit_det.images.read import read_image
from svit_det.images.sources import Picture, find_sources, is_film, pictures_of

__all__ = [
    "IMAGE_SUFFIXES",
    "LARGEST_IMAGE",
    "Picture",
    "find_images",
    "find_sources",
    "is_film",
    "pictures_of",
    "read_image",
    "size_on_disk",
    "spread_out",
    "without_warnings",
]
