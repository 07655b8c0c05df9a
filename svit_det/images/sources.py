"""Pictures from any source: files, folders, patterns, films, cameras, arrays, tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from glob import glob
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svit_det.errors import InputError, refuse_url
from svit_det.images.find import IMAGE_SUFFIXES, all_found, images_at, images_in
from svit_det.images.open import decoding
from svit_det.images.read import pixels_of, read_image
from svit_det.images.video import VIDEO_SUFFIXES, frames_of

ORDERS = ("RGB", "BGR")
DEEPEST = 20
"""Most lists of sources inside each other."""
NO_LISTS = (bytes, bytearray, memoryview, Mapping, IOBase)
"""These give numbers, lines or keys where pictures are meant; a number would open a camera."""

Failed = Callable[[str, InputError], object]
"""Called with the name of a path or camera that cannot be used, and the reason."""


@dataclass(frozen=True)
class Picture:
    """One picture: its name, and a function that reads it."""

    name: str
    """The picture's path, the film's path with the frame's number, or the place in the source."""
    read: Callable[[], np.ndarray]
    """(height, width, 3) uint8 RGB. Raises InputError for a picture that cannot be read."""


def find_sources(inputs: Iterable[str | Path]) -> list[str]:
    """The files of pictures and films behind paths, folders and patterns; each once.

    Raises InputError that names every path that does not exist, every folder without images, every
    pattern that no file matches and every URL.
    """
    unique: dict[str, str] = {}
    for path in all_found(_files_at, inputs):
        unique.setdefault(os.path.abspath(path), str(path))
    return list(unique.values())


def is_film(path: str | Path) -> bool:
    """Whether the file of this name is read as a film."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def pictures_of(
    source: Any, *, order: str | None = None, failed: Failed | None = None
) -> Iterator[Picture]:
    """Every picture of `source`, in order.

    `source`: the path of a picture, film or folder (the pictures in it), a pattern such as
    "photos/**/*.jpg", the number of a camera, a PIL image, a uint8 array (height, width, 3) or
    (height, width), a uint8 tensor (3, height, width) or (1, height, width), a batch of either with
    one dimension more, or a list of any of these.

    order: "RGB" or "BGR", the order of channels in arrays and tensors; only the caller knows it.
    failed: called for a film that cannot be read and, in a list, for a path or a camera that is not
    there; the other pictures then follow. None: the first one raises InputError.

    Raises InputError for any other source, at the latest when the first picture is asked for.
    """
    if not (order is None or (isinstance(order, str) and order in ORDERS)):
        raise InputError(f"order: no '{order}'; choose RGB or BGR.")
    return _walk(source, order, "", failed)


def _walk(source: Any, order: str | None, place: str, failed: Failed | None) -> Iterator[Picture]:
    depth = place.count("[")
    if depth > DEEPEST:
        raise InputError("The sources are lists nested too deeply; give one list of pictures.")
    if isinstance(source, NO_LISTS):
        raise _no_picture(source)
    if isinstance(source, (str, Path)):
        yield from _at(str(source), failed, alone=not place)
    elif isinstance(source, bool) or source is None:
        raise InputError(f"{source} is no picture; give a path, an array, an image or a list.")
    elif isinstance(source, int) and depth < 2:
        yield from _frames(source, failed if place else None)
    elif isinstance(source, Image.Image):
        yield Picture(f"image{place}", partial(_of_image, source, f"image{place}"))
    elif isinstance(source, np.ndarray) or hasattr(source, "detach"):
        yield from _of_arrays(source, order, place)
    elif isinstance(source, Iterable):
        for number, each in enumerate(source):
            yield from _walk(each, order, f"{place}[{number}]", failed)
    else:
        raise _no_picture(source)


def _no_picture(source: object) -> InputError:
    return InputError(
        f"A {type(source).__name__} is no picture; give a path, an array, an image or a list."
    )


def _at(text: str, failed: Failed | None, *, alone: bool) -> Iterator[Picture]:
    """The pictures at a path or pattern. Without others beside it, a missing one is an error."""
    try:
        paths = _files_at(text)
    except InputError as error:
        if failed is None or alone:
            raise
        failed(text, error)
        return
    for path in paths:
        if is_film(path):
            yield from _frames(str(path), failed)
        else:
            yield Picture(str(path), partial(read_image, path, "RGB"))


def _files_at(given: str | Path) -> list[Path]:
    """The files at a path or pattern. Raises InputError where there are none."""
    refuse_url(given)
    text = str(given)
    if not any(sign in text for sign in "*?[") or os.path.exists(text):
        return images_at(given)
    paths = _matches(text)
    if not paths:
        raise InputError(f"{text}: no file matches this pattern.")
    return paths


def _matches(pattern: str) -> list[Path]:
    """The files that match, and the image files of the folders that match; each once.

    A pattern that ends in stars matches files of every kind; pictures and films are meant.
    """
    takes_all = not Path(pattern).name.strip("*")
    found: dict[Path, None] = {}
    for each in map(Path, sorted(glob(pattern, recursive=True))):
        if each.is_dir():
            found |= dict.fromkeys(images_in(each))
        elif not takes_all or is_film(each) or each.suffix.lower() in IMAGE_SUFFIXES:
            found[each] = None
    return list(found)


def _frames(source: str | int, failed: Failed | None) -> Iterator[Picture]:
    """The frames of a film or of a camera."""
    try:
        for name, frame in frames_of(source):
            yield _held(name, frame)
    except InputError as error:
        if failed is None:
            raise
        failed(source if isinstance(source, str) else f"camera {source}", error)


def _held(name: str, pixels: np.ndarray) -> Picture:
    return Picture(name, lambda: pixels)


def _of_image(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an image of Pillow's, which may not be decoded yet."""
    with decoding(name):
        pixels = pixels_of(image)
    if not pixels.size:
        raise InputError(f"{name}: has no pixels.")
    return pixels


def _array_of(tensor: Any) -> np.ndarray | None:
    """The tensor's numbers; None for a tensor without plain numbers in memory, or no tensor."""
    try:
        array = tensor.detach().cpu().numpy()
    # Sparse, quantised and empty ('meta') tensors, kinds of numbers that NumPy lacks, and other
    # things that can be detached: each raises something else.
    except Exception:
        return None
    return array if isinstance(array, np.ndarray) else None


def _of_arrays(source: Any, order: str | None, place: str) -> Iterator[Picture]:
    """An array, or a tensor with the channels first; with one dimension more it is a batch."""
    is_tensor = hasattr(source, "detach")
    array = _array_of(source) if is_tensor else source
    if array is None:
        yield Picture(f"array{place}", partial(_refuse, source, f"array{place}"))
        return
    if array.ndim == 4:
        for number, each in enumerate(array):
            part = f"{place}[{number}]"
            yield Picture(f"array{part}", _reader(each, order, f"array{part}", is_tensor))
        return
    yield Picture(f"array{place}", _reader(array, order, f"array{place}", is_tensor))


def _refuse(source: Any, name: str) -> np.ndarray:
    kind = str(getattr(source, "dtype", type(source).__name__)).removeprefix("torch.")
    raise InputError(f"{name}: holds {kind}, in a form that NumPy cannot read; give uint8 pixels.")


def _reader(
    array: np.ndarray, order: str | None, name: str, channels_first: bool
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        pixels = array
        if channels_first and array.ndim == 3:
            pixels = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
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
