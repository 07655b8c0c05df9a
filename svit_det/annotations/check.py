"""Checks a whole COCO json: first its form and categories, which must be right, then each entry."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from typing import Any

from svit_det.annotations.entries import AnnotationCheck, check_images, is_id
from svit_det.annotations.files import check_files
from svit_det.annotations.findings import Findings, name_of
from svit_det.annotations.json_file import read_json
from svit_det.errors import InputError, is_text

LISTS = ("images", "annotations", "categories")
CONTROLS = {"Cc", "Zl", "Zp"}
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Unicode's kinds of characters that no name of a category may hold."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a run asks of a set."""

    trained: bool
    """The set must hold at least one object to learn from."""
    evaluated: bool
    """COCO's evaluation reads the set. The evaluation needs more fields, and every image."""
    masks: bool
    """Masks are learned or evaluated."""
    num_classes: int | None
    """Number of classes of the model; None: any number of categories will do."""
    class_key: str = "MODEL.ROI_HEADS.NUM_CLASSES"
    """The config key that `num_classes` comes from."""


@dataclass(frozen=True)
class Examined:
    """A COCO json and its problems."""

    path: str
    content: dict[str, Any]
    findings: Findings
    trainable: int
    """Objects that a training can learn from."""

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each list."""
        return {name: len(self.content[name]) for name in LISTS}

    @property
    def is_whole(self) -> bool:
        """Whether every entry can be used."""
        return not any(map(self.findings.refused, LISTS))

    def usable(self, where: str) -> list[Any]:
        """The entries of the list `where` that can be used."""
        lost = self.findings.refused(where)
        return [each for place, each in enumerate(self.content[where]) if place not in lost]

    def problems(self) -> str:
        """The unusable entries by kind of problem, with their numbers, in words."""
        return self.findings.in_words(self.sizes)


def examine(path: str, folder: str | None, demands: Demands) -> Examined:
    """Read the json at `path`, for the images in `folder`, and judge each of its entries.

    Without a folder the entries alone are judged, and no image file is looked at.
    Raises InputError where entries cannot be judged: for a file that is no COCO json, categories
    that cannot be told apart, another number of categories than the model's classes, or a missing
    folder of images.
    """
    content = read_json(path)
    for name in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{path}: not a COCO instance file, it has no list '{name}'.")
    categories = _check_categories(path, content["categories"], demands)
    if folder is not None and not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of images (for {path}).")
    findings = Findings()
    images, annotations = content["images"], content["annotations"]
    sizes = check_images(images, findings)
    if folder is not None:
        check_files(path, folder, images, sizes, findings, evaluated=demands.evaluated)
    check = AnnotationCheck(
        findings=findings,
        sizes=sizes,
        lost=_ids_of(images, findings),
        categories=categories,
        masks=demands.masks,
        evaluated=demands.evaluated,
    )
    check.judge_all(annotations)
    return Examined(path, content, findings, check.trainable)


def _ids_of(images: list[Any], findings: Findings) -> set[int]:
    """Ids of the unusable images that have an id."""
    entries = [images[place] for place in findings.refused("images")]
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return {each for each in ids if type(each) is int}


def _check_categories(path: str, categories: list[Any], demands: Demands) -> set[int]:
    """The ids of the categories. All must be right: without one the labels would change meaning."""
    ids: set[int] = set()
    names: set[str] = set()
    for place, entry in enumerate(categories):
        where = f"{path}: the category {name_of(entry, place)}"
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            raise InputError(f"{where} has no 'id' that is a whole number.")
        if type(entry.get("name")) is not str or not entry["name"].strip():
            raise InputError(f"{where} has no 'name'.")
        if not is_text(entry["name"]):
            raise InputError(f"{where} has a 'name' with half a character in it; write it anew.")
        if not _is_shown(entry["name"]):
            raise InputError(
                f"{where} has the 'name' '{entry['name']}' with characters that control a "
                "terminal; write it anew."
            )
        if entry["id"] in ids:
            raise InputError(f"{where} is there twice; each category has an 'id' of its own.")
        if entry["name"] in names:
            raise InputError(
                f"{where} has the name of another one, '{entry['name']}'; results are told apart "
                "by name."
            )
        ids.add(entry["id"])
        names.add(entry["name"])
    if demands.num_classes not in (None, len(ids)):
        raise InputError(
            f"{path}: {len(ids)} categories for {demands.class_key} {demands.num_classes}; "
            "the model needs one class for each."
        )
    return ids


def _is_shown(name: str) -> bool:
    """Whether no character of the name controls a terminal, ends a line, or turns its direction.

    Scripts such as Persian and Hindi need marks that are not seen by themselves.
    """
    return not any(
        unicodedata.category(each) in CONTROLS or unicodedata.bidirectional(each) in TURNS
        for each in name
    )
