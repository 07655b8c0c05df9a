"""Images in ImageNet's layout: a folder for each class, with the images of this class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from svit_det.errors import InputError
from svit_det.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the class folders, sorted; a label is a place in this list."""
    files: tuple[tuple[str, int], ...]
    """Path and label of each image, class by class."""

    def __len__(self) -> int:
        return len(self.files)


def read_split(root: str | Path, split: str, *, num_classes: int) -> LabelledImages:
    """The images of ROOT/SPLIT, for a head of `num_classes` classes.

    Raises InputError for a folder that is missing or may not be read, for a folder with no class
    folder, with a single one or with another number of them than the head has classes, and for a
    class without images.
    """
    folder = Path(root) / split
    if not os.path.isdir(folder):
        raise InputError(f"DATA.ROOT {root}: no folder {split} in it with a folder by class.")
    classes = sorted(entry.name for entry in _entries_of(folder) if _is_folder(entry))
    if not classes:
        raise InputError(f"{folder}: no class folders in it; sort the images into one by class.")
    if len(classes) == 1:
        raise InputError(f"{folder}: only one class, {classes[0]}; there is nothing to tell apart.")
    if len(classes) != num_classes:
        last = f", so that labels go up to {len(classes) - 1}" if len(classes) > num_classes else ""
        raise InputError(
            f"{folder}: {len(classes)} classes{last}, but the head has {num_classes}; set "
            f"MODEL.NUM_CLASSES {len(classes)}."
        )
    files: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        found = sorted(
            entry.path
            for entry in _entries_of(folder / name)
            if entry.name.lower().endswith(IMAGE_SUFFIXES)
        )
        if not found:
            raise InputError(f"{folder / name}: no images in this class folder.")
        files += [(path, label) for path in found]
    return LabelledImages(folder, tuple(classes), tuple(files))


def _entries_of(folder: Path) -> list[os.DirEntry[str]]:
    # scandir tells files from folders without one disk access for each of a million files.
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}).") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def check_same_classes(train: LabelledImages, val: LabelledImages) -> None:
    """Refuse two splits whose labels mean different classes."""
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise InputError(f"{train.folder} and {val.folder}: the class {odd[0]} is in one only.")
