"""Pictures from any source: files, folders, patterns, films, cameras, arrays, tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svit_det.errors import InputError
from svit_det.images.find import find_images
from svit_det.images.read import pixels_of, read_image
from svit_det.images.video import VIDEO_SUFFIXES, frames_of

ORDERS = ("RGB", "BGR")


@dataclass(frozen=True)
class Picture:
    """One picture: its name, and a function that reads it."""

    name: str
    """The picture's path, the film's path with the frame's number, or the place in the source."""
    read: Callable[[], np.ndarray]
    """(height, width, 3) uint8 RGB. Raises InputError for a picture that cannot be read."""


def pictures_of(source: Any, *, order: str | None = None) -> Iterator[Picture]:
    """Every picture of `source`, in order.

    `source`: the path of a picture, film or folder (the pictures in it), a pattern such as
    "photos/**/*.jpg", the number of a camera, a PIL image, a uint8 array (height, width, 3) or
    (height, width), a uint8 tensor (3, height, width) or (1, height, width), a batch of either with
    one dimension more, or a list of any of these.

    order: "RGB" or "BGR", the order of channels in arrays and tensors; only the caller knows it.

    Raises InputError for any other source, at the latest when the first picture is asked for.
    """
    if order not in (None, *ORDERS):
        raise InputError(f"order: no '{order}'; choose RGB or BGR.")
    return _walk(source, order, "")


def _walk(source: Any, order: str | None, place: str) -> Iterator[Picture]:
    if isinstance(source, (str, Path)):
        yield from _at(str(source))
    elif isinstance(source, bool) or source is None:
        raise InputError(f"{source} is no picture; give a path, an array, an image or a list.")
    elif isinstance(source, int):
        for name, frame in frames_of(source):
            yield _held(name, frame)
    elif isinstance(source, Image.Image):
        yield Picture(f"image{place}", lambda: pixels_of(source))
    elif isinstance(source, np.ndarray) or hasattr(source, "detach"):
        yield from _of_arrays(source, order, place)
    elif isinstance(source, Iterable):
        for number, each in enumerate(source):
            yield from _walk(each, order, f"{place}[{number}]")
    else:
        raise InputError(
            f"A {type(source).__name__} is no picture; give a path, an array, an image or a list."
        )


def _at(text: str) -> Iterator[Picture]:
    """A path, a pattern of paths, or an address that is refused."""
    if "://" in text:
        raise InputError(f"{text}: a file is wanted, not a URL; download it first.")
    paths = [text]
    if any(sign in text for sign in "*?[") and not Path(text).exists():
        paths = sorted(glob(text, recursive=True))
        if not paths:
            raise InputError(f"{text}: no file matches this pattern.")
    for path in paths:
        if Path(path).suffix.lower() in VIDEO_SUFFIXES and Path(path).is_file():
            for name, frame in frames_of(path):
                yield _held(name, frame)
            continue
        for found in find_images([path]):
            yield Picture(str(found), lambda found=found: read_image(found, "RGB"))  # type: ignore[misc]


def _held(name: str, pixels: np.ndarray) -> Picture:
    return Picture(name, lambda: pixels)


def _of_arrays(source: Any, order: str | None, place: str) -> Iterator[Picture]:
    """An array, or a tensor with the channels first; with one dimension more it is a batch."""
    is_tensor = hasattr(source, "detach")
    array = source.detach().cpu().numpy() if is_tensor else source
    if array.ndim == 4:
        for number, each in enumerate(array):
            part = f"{place}[{number}]"
            yield Picture(f"array{part}", _reader(each, order, f"array{part}", is_tensor))
        return
    yield Picture(f"array{place}", _reader(array, order, f"array{place}", is_tensor))


def _reader(
    array: np.ndarray, order: str | None, name: str, channels_first: bool
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        pixels = array
        if channels_first:
            pixels = array[0] if array.ndim == 3 and len(array) == 1 else np.moveaxis(array, 0, -1)
        return _checked(pixels, order, name, "(3, height, width)" if channels_first else "")

    return read


def _checked(pixels: np.ndarray, order: str | None, name: str, wanted: str) -> np.ndarray:
    shape = wanted or "(height, width, 3) or (height, width)"
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{name}: holds {pixels.dtype}; give uint8, from 0 to 255, so that nobody has to guess "
            "what white is."
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    elif pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"{name}: a picture of shape {pixels.shape} is not {shape}.")
    elif order is None:
        raise InputError(
            f"{name}: say order='RGB' or order='BGR' (OpenCV reads BGR); the values do not tell."
        )
    if not pixels.size:
        raise InputError(f"{name}: has no pixels.")
    return pixels[:, :, ::-1] if order == "BGR" else pixels
