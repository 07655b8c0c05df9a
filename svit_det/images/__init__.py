"""Pictures from disk, memory, films and cameras. NumPy and Pillow only, and OpenCV for films."""

from svit_det.images.find import IMAGE_SUFFIXES, find_images, spread_out
from svit_det.images.read import read_image
from svit_det.images.sources import Picture, pictures_of

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "find_images",
    "pictures_of",
    "read_image",
    "spread_out",
]
