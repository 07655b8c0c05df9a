"""Reading an image file into pixels, whatever its mode, or saying why it cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from svit_det.errors import InputError

WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""PIL modes with more than 8 bits per pixel, which PIL itself would clip to white."""

MOST_PIXELS = 178_956_970
"""Of one picture: half a gigabyte as RGB. Above it Pillow takes a file for an attack, too."""


def read_image(path: str | Path, image_format: str) -> np.ndarray:
    """(height, width, 3) uint8 in `image_format`, "RGB" or "BGR", turned upright by its EXIF tag.

    Grey images are repeated over the channels, 16-bit ones scaled from their own range to 0-255,
    transparent pixels laid on black, CMYK and palettes converted.
    Raises InputError for a file that is missing or cannot be decoded.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format must be RGB or BGR, not {image_format!r}.")
    try:
        with Image.open(path) as stored:
            width, height = stored.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"{path}: {width} x {height} pixels are too many to read at once; cut it into "
                    "tiles or make it smaller."
                )
            pixels = pixels_of(stored)
            return pixels[:, :, ::-1] if image_format == "BGR" else pixels
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file that can be read.") from error
    except MemoryError as error:
        raise InputError(
            f"{path}: too large for the memory that is left; make it smaller."
        ) from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the image cannot be decoded ({error}).") from error


def pixels_of(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 RGB of an open image, brought to it as `read_image` says."""
    image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_MODES:
        image = _to_eight_bits(image)
    elif "A" in image.getbands() or "transparency" in image.info:
        image = _on_black(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """A wide grey image scaled from its own range, so that microscopy's narrow ranges are seen.

    Float images may hold nan and inf for pixels without a value: they are black.
    """
    pixels = np.asarray(image, dtype=np.float64)
    known = np.isfinite(pixels)
    low, high = (pixels[known].min(), pixels[known].max()) if known.any() else (0.0, 0.0)
    scaled = np.where(known, pixels - low, 0.0) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().astype(np.uint8))


def _on_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image)
