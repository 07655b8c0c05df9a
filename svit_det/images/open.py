"""Opening an image file without trusting it: its format and its size are checked first."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from svit_det.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")
"""Pillow's names of the formats that are read. The content decides, not the file's name. Other
formats are not tried: for EPS, Pillow would start a PostScript interpreter on the file."""
LARGEST_IMAGE = 178_956_970
"""Pixels; Pillow's own limit. Three channels take half a gigabyte of memory."""
ORIENTATION = 0x0112
"""EXIF's tag: 1 to 8."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's many warnings about odd files; real problems raise. Not thread-safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """The picture at `path`, not decoded yet.

    Raises InputError for a file that is missing, no regular file, of another format or of more than
    LARGEST_IMAGE pixels, and for anything that Pillow raises inside the with-block.
    """
    Image.init()  # before this call Pillow knows a few formats only
    with decoding(path):
        # Reading from a pipe could wait forever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: a folder or a device, not an image file.")
        # Pillow gets the open file, not its name. With a name it maps uncompressed files into
        # memory, and gives a TIFF with an orientation tag a wrong shape.
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise InputError(too_large(path, f"{image.width:,} x {image.height:,} pixels"))
            yield image


@contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Inside the with-block, whatever Pillow raises becomes an InputError about `path`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image.") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name that no file can have.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file that can be read.") from error
    except Image.DecompressionBombError as error:
        raise InputError(too_large(path, "too many pixels")) from error
    except MemoryError as error:
        raise InputError(f"{path}: there is no memory for this image; cut it to tiles.") from error
    # A broken file may make Pillow raise nearly anything.
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(said.split()) or type(error).__name__
        raise InputError(f"{path}: the image cannot be decoded ({reason}).") from error


def too_large(path: str | Path, size: str) -> str:
    """A message about an image of this size."""
    return f"{path}: {size}, where {LARGEST_IMAGE:,} can be read; cut it to tiles."


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where the tag is missing or makes no sense.

    Images are decoded first if their format may store the tag behind the pixels.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def size_on_disk(path: str | Path, *, decoded: bool = False) -> tuple[int, int]:
    """(height, width) that `read_image` would return, read from the head of the file.

    In a PNG the orientation may lie behind the pixels; such an orientation is found only where the
    picture is `decoded`, and is ignored otherwise. Raises InputError for a file whose head cannot
    be read, as `read_image` does.
    """
    with opened(path) as image:
        width, height = image.size
        # For a TIFF, Pillow already gives the size of the upright picture.
        early = image.format in ("JPEG", "MPO", "WEBP") or "exif" in image.info
        turned = image.format != "TIFF" and (early or decoded) and orientation(image) >= 5
        return (width, height) if turned else (height, width)
