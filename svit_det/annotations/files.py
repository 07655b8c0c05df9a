"""Checks the image files of a COCO json: whether they exist, and have the size that it states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from svit_det.annotations.findings import Findings
from svit_det.errors import InputError
from svit_det.images import size_on_disk, without_warnings

AT_ONCE = 8
"""Number of files opened at the same time: a network file system is slow, but answers many."""
MISSING = "of which there is no file in the folder"
UNREADABLE = "whose file cannot be read"


def check_files(
    path: str,
    folder: str,
    images: list[Any],
    sizes: dict[int, tuple[int, int]],
    findings: Findings,
    *,
    evaluated: bool,
) -> None:
    """Look at the head of every image's file.

    An image of another size than the json says is unusable, and is removed from `sizes`, which
    holds (height, width) by id. An image without a readable file is unusable where the set is
    evaluated; a training skips such an image. Raises InputError where none of the images is in the
    folder.
    """
    places = [p for p in range(len(images)) if p not in findings.refused("images")]
    found = _problems(folder, [images[place] for place in places])
    missing = 0
    for place, problem in zip(places, found, strict=True):
        if problem is None:
            continue
        missing += problem == MISSING
        if evaluated or problem not in (MISSING, UNREADABLE):
            findings.refuse("images", place, images[place], problem)
            del sizes[images[place]["id"]]
        else:
            findings.note("images", place, images[place], f"{problem}, which training skips")
    if places and missing == len(places):
        raise InputError(f"{folder}: none of the images of {path} is in this folder.")


def _problems(folder: str, images: list[Any]) -> Iterator[str | None]:
    def look(entry: Any) -> str | None:
        return file_problem(os.path.join(folder, entry["file_name"]), entry)

    with without_warnings(), ThreadPoolExecutor(AT_ONCE) as pool:
        looked = pool.map(look, images, chunksize=64)
        total = len(images)
        yield from tqdm(looked, desc="checking images", total=total, unit="", delay=3, leave=False)


def file_problem(file: str, entry: Any) -> str | None:
    """What is wrong with the file of one image; None for nothing."""
    if not os.path.exists(file):
        return MISSING
    said = entry["height"], entry["width"]
    try:
        size = size_on_disk(file)
        if size[::-1] == said != size:
            # An orientation behind the pixels may turn the picture; only decoding shows it.
            size = size_on_disk(file, decoded=True)
    except InputError:
        return UNREADABLE
    return None if size == said else "of another size than their file"
