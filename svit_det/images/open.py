"""Opening an image file without trusting it: its kind, and how large its picture would be."""

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
"""Pillow's names of what is read, by content and not by name. Others are not asked: for one of
them, EPS, Pillow starts a PostScript interpreter on the file."""
LARGEST_IMAGE = 178_956_970
"""Pixels; Pillow's own limit. Half a gigabyte of memory in three channels."""
ORIENTATION = 0x0112
"""EXIF's tag: 1 to 8."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow says much of odd files; where it matters, it raises. Not for several threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """The picture at `path`, not decoded yet.

    Raises InputError for a file that is missing, no regular file, of no kind that is read here or
    of more than LARGEST_IMAGE pixels, and for whatever it makes Pillow raise inside the with-block.
    """
    Image.init()  # Pillow knows a few formats only, until it is asked for all
    try:
        # A pipe would be waited for without end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: a folder or a device, not an image file.")
        # Not by its name: Pillow then maps uncompressed files into memory, and gives a TIFF that is
        # to be turned a wrong shape.
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise InputError(too_large(path, f"{image.width:,} x {image.height:,} pixels"))
            yield image
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
    # A broken file makes Pillow raise nearly anything.
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(said.split()) or type(error).__name__
        raise InputError(f"{path}: the image cannot be decoded ({reason}).") from error


def too_large(path: str | Path, size: str) -> str:
    """What to say of an image of this size."""
    return f"{path}: {size}, where {LARGEST_IMAGE:,} can be read; cut it to tiles."


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or the tag makes no sense.

    Decodes images of formats that may keep it behind the pixels.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that is damaged says nothing of the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def size_on_disk(path: str | Path) -> tuple[int, int]:
    """(height, width) that `read_image` would return, told from the head of the file.

    In a PNG the orientation may lie behind the pixels: there it is not looked at. Raises InputError
    as `read_image` does for a file without such a head.
    """
    with opened(path) as image:
        width, height = image.size
        # TIFF's size is that of the upright picture already.
        early = image.format in ("JPEG", "MPO", "WEBP") or "exif" in image.info
        turned = image.format != "TIFF" and early and orientation(image) >= 5
        return (width, height) if turned else (height, width)
