"""Pixels of more than eight bits, scaled to eight bits from the picture's own range.

Microscopes and cameras fill only some of the sixteen bits. Pillow alone would show such a picture
white (one channel) or nearly black (several channels).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile

WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of one channel of more than 8 bits."""
PHOTOMETRIC, BITS, SAMPLE_FORMAT, PLANES = 262, 258, 339, 284
"""TIFF's tags. Photometric 0 means that the least value is white."""
GREY_WITH_ALPHA = "LA;16B"
"""Pillow's raw mode of a PNG with two channels of 16 bits."""
AT_ONCE = 1 << 18
"""Pixels that are scaled at once, so that a large picture needs no second copy in float64."""


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image with several channels, not decoded yet, has 16 bits in each.

    Raises ValueError for planes of 16 bits behind each other, which Pillow misreads.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode not in ("RGB", "RGBA"):
        return False
    if tags.get(PLANES) == 2 and max(tags.get(BITS, (8,))) > 8:
        raise ValueError("its channels of 16 bits lie behind each other; save them interleaved")
    return any(";16" in _raw_mode(tile.args) for tile in image.tile)


def grey_to_eight_bits(image: Image.Image) -> Image.Image:
    """A picture of one of WIDE_MODES as "L".

    Float images may hold nan and inf for pixels without a value; such pixels become black.
    """
    tags = getattr(image, "tag_v2", {})
    pixels = np.asarray(image)
    if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        pixels = pixels.view(np.uint32)  # Pillow has no unsigned mode: large values were negative
    return Image.fromarray(_scaled(pixels, inverted=tags.get(PHOTOMETRIC) == 0))


def colour_to_eight_bits(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> Image.Image:
    """A deep picture as "RGB", from its high and its low bytes; transparent pixels become black.

    again: the same file, opened a second time. Neither of the two is decoded yet.
    """
    clear = image.info.get("transparency")
    two_channels = any(_raw_mode(tile.args) == GREY_WITH_ALPHA for tile in image.tile)
    _take_low_bytes(again)
    if two_channels:
        both = np.asarray(again)
        upper, lower = both[..., ::2], both[..., 1::2]
    else:
        upper, lower = np.asarray(image), np.asarray(again)
    pixels = upper.astype(np.uint16)
    pixels <<= 8
    pixels |= lower
    colour, alpha = pixels, None
    if image.mode == "RGBA":
        colour, alpha = pixels[..., :-1], pixels[..., -1:]
    elif isinstance(clear, tuple) and len(clear) == 3:
        alpha = 65535 * (pixels != np.array(clear)).any(axis=-1, keepdims=True).astype(np.uint16)
    known = None if alpha is None else np.broadcast_to(alpha > 0, colour.shape)
    scaled = _scaled(colour, known=known, alpha=alpha)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3))))


def _take_low_bytes(image: ImageFile.ImageFile) -> None:
    """Have Pillow take the other byte of every 16-bit value when it decodes."""
    image.tile = [tile._replace(args=_swapped(tile.args)) for tile in image.tile]


def _raw_mode(args: object) -> str:
    """The raw mode in a tile's arguments, which are a raw mode or begin with one."""
    return str(args[0]) if isinstance(args, tuple) and args else str(args)


def _swapped(args: tuple[Any, ...] | str | None) -> tuple[Any, ...] | str:
    mode = _raw_mode(args)
    if mode == GREY_WITH_ALPHA:
        return "RGBA"  # all four bytes of the two channels; no reader takes the low bytes alone
    native = "L" if sys.byteorder == "little" else "B"
    order = native if mode[-1] == "N" else mode[-1]
    swapped = mode[:-1] + {"L": "B", "B": "L"}[order]
    return (swapped, *args[1:]) if isinstance(args, tuple) else swapped


def _scaled(
    pixels: np.ndarray,
    *,
    inverted: bool = False,
    known: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 of the same shape: 0 (black) is the least known value, 255 (white) the largest.

    alpha: uint16 of one channel; the scaled pixels are laid on black with it.
    """
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height * width, -1)
    known = None if known is None else known.reshape(flat.shape)
    alpha = None if alpha is None else alpha.reshape(-1, 1)
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(flat), AT_ONCE)]
    low, high = np.inf, -np.inf
    for part in parts:
        inside = flat[part][_known(flat, known, part)]
        if inside.size:
            low, high = min(low, float(inside.min())), max(high, float(inside.max()))
    scaled = np.zeros(flat.shape, np.uint8)
    if not low <= high:
        return scaled.reshape(pixels.shape)
    with np.errstate(over="ignore"):
        factor = 255 / max(high - low, 1e-12)
    for part in parts:
        values = np.where(
            _known(flat, known, part), flat[part].astype(np.float64), high if inverted else low
        )
        values = high - values if inverted else values - low
        scaled[part] = (values * factor).round().clip(0, 255).astype(np.uint8)
        if alpha is not None:
            seen = alpha[part] / np.float32(65535)
            scaled[part] = (scaled[part] * seen).round().astype(np.uint8)
    return scaled.reshape(pixels.shape)


def _known(pixels: np.ndarray, known: np.ndarray | None, part: slice) -> np.ndarray:
    return np.isfinite(pixels[part]) if known is None else known[part]
