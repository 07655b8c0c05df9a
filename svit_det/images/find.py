"""Finding image files, and choosing a few of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from svit_det.errors import InputError, refuse_url

Item = TypeVar("Item")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The given files, and the image files of the given folders, sorted; each once.

    Raises InputError that names every path that does not exist, every folder without images and
    every URL.
    """
    return list(dict.fromkeys(all_found(images_at, inputs)))


def all_found(find: Callable[[str | Path], list[Path]], inputs: Iterable[str | Path]) -> list[Path]:
    """The files that `find` finds for each input. One InputError names all that it refuses."""
    found: list[Path] = []
    refusals: list[str] = []
    for given in inputs:
        try:
            found += find(given)
        except InputError as error:
            refusals.append(str(error).removesuffix("."))
    if refusals:
        raise InputError("; ".join(dict.fromkeys(refusals)) + ".")
    return found


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted. Raises InputError for a folder that cannot be read."""
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}).") from error


def images_at(given: str | Path) -> list[Path]:
    """The given file, or the image files of the given folder; refuses as `find_images` does."""
    refuse_url(given)
    if not str(given):
        raise InputError("'': no picture has an empty name; name a file or a folder.")
    path = Path(given)
    if os.path.isdir(path):
        files = images_in(path)
        if not files:
            raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
        return files
    if not os.path.isfile(path):
        there = "a pipe or a device, not an image file" if os.path.exists(path) else None
        raise InputError(f"{path}: {there or 'no such image or folder'}.")
    return [path]


def spread_out(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, or all if there are fewer, evenly over the list."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
