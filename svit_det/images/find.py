"""Finding image files, and choosing a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from svit_det.errors import InputError

Item = TypeVar("Item")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The given files, and the image files of the given folders, sorted; each once.

    Raises InputError for a path that does not exist, a folder without images and a URL.
    """
    found: list[Path] = []
    for given in inputs:
        if "://" in str(given):
            raise InputError(f"{given}: a file is wanted, not a URL; download it first.")
        path = Path(given)
        if path.is_dir():
            files = sorted(
                p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
            )
            if not files:
                raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such image or folder.")
    return list(dict.fromkeys(found))


def spread_out(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, or all if there are fewer, evenly over the list."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
