"""Reading an image file of any mode into pixels, or an error that says why this is impossible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from svit_det.images.depth import (
    WIDE_MODES,
    colour_to_eight_bits,
    grey_to_eight_bits,
    is_deep_colour,
)
from svit_det.images.open import opened, orientation, without_warnings

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns a stored picture upright, by EXIF's orientation."""


PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
"""Pillow's modes whose colours are multiplied by their alpha already, and the plain modes."""


def read_image(path: str | Path, image_format: str) -> np.ndarray:
    """(height, width, 3) uint8 in `image_format`, "RGB" or "BGR", turned upright by its EXIF tag.

    Grey images are repeated over the channels. Pixels of more than 8 bits are scaled from the
    image's own range to 0-255, all channels alike. Transparent pixels are laid on black, CMYK and
    palettes are converted, and TIFFs whose least value is white are inverted.
    Raises InputError for a file that is missing, cannot be decoded or is too large.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format must be RGB or BGR, not {image_format!r}.")
    with without_warnings(), opened(path) as stored:
        pixels = _upright(_in_eight_bits(path, stored), orientation(stored))
        return pixels[:, :, ::-1] if image_format == "BGR" else pixels


def pixels_of(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 RGB of an image in memory, converted as `read_image` says."""
    return _upright(_plain(image), orientation(image))


def _upright(image: Image.Image, how: int) -> np.ndarray:
    turn = UPRIGHT.get(how)
    return np.asarray(image if turn is None else image.transpose(turn))


def _in_eight_bits(path: str | Path, stored: ImageFile.ImageFile) -> Image.Image:
    """The picture in mode "RGB"."""
    if is_deep_colour(stored):
        with opened(path) as again:
            return colour_to_eight_bits(stored, again)
    stored.load()
    return _plain(stored)


def _plain(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as "RGB"."""
    if image.mode in WIDE_MODES:
        image = grey_to_eight_bits(image)
    elif image.mode in PREMULTIPLIED:
        image = _on_black(image.convert(PREMULTIPLIED[image.mode]).convert("RGBA"))
    elif "A" in image.getbands() or "transparency" in image.info:
        image = _on_black(image.convert("RGBA"))
    return image.convert("RGB")


def _on_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image)
