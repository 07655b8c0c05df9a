"""The entries of a COCO json one by one: images, then annotations."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from svit_det.annotations.boxes import box_oddity, box_problem
from svit_det.annotations.findings import Findings
from svit_det.annotations.polygons import polygons_oddity, polygons_problem
from svit_det.annotations.runs import runs_problem, texts_problems
from svit_det.images import LARGEST_IMAGE

LARGEST_ID = 2**53
"""The evaluation keeps ids in floats, which are exact up to this number."""
TEXTS_AT_ONCE = 20_000

Size = tuple[int, int]


def is_id(value: object) -> bool:
    """Whether `value` is a whole number that a float holds exactly; True and False are none."""
    return type(value) is int and -LARGEST_ID <= value <= LARGEST_ID


# ------------------------------------------------------------------ images


def check_images(images: list[Any], findings: Findings) -> dict[int, Size]:
    """(height, width) by id of the images that can be used."""
    sizes: dict[int, Size] = {}
    counts = Counter(
        entry["id"] for entry in images if isinstance(entry, dict) and is_id(entry.get("id"))
    )
    for place, entry in enumerate(images):
        problem = _image_problem(entry)
        if problem is None and counts[entry["id"]] > 1:
            # All images with this id are refused: the annotations do not tell which one they mean.
            problem = "with an 'id' that another image has too"
        if problem is None:
            sizes[entry["id"]] = entry["height"], entry["width"]
        else:
            findings.refuse("images", place, entry, problem)
    return sizes


def _image_problem(entry: Any) -> str | None:
    missing = missing_field(entry, ("id", "file_name", "height", "width"))
    if missing:
        return missing
    if not is_id(entry["id"]):
        return "with an 'id' that is not a whole number"
    if not is_file_name(entry["file_name"]):
        return "with a 'file_name' that no file can have"
    height, width = entry["height"], entry["width"]
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        return "with a 'height' or 'width' that is not a whole number from 1 up"
    if height * width > LARGEST_IMAGE:
        return f"of more than {LARGEST_IMAGE:,} pixels"
    return None


def is_file_name(name: object) -> bool:
    """Whether `name` is a text that the file system can look up."""
    if type(name) is not str or not name or "\0" in name:
        return False
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:  # half a pair of surrogates
        return False


def missing_field(entry: Any, names: tuple[str, ...]) -> str | None:
    """The problem of an entry that is no object or lacks one of these fields; None for none."""
    if not isinstance(entry, dict):
        return "that are no objects with fields"
    for name in names:
        if entry.get(name) is None:
            return f"without '{name}'"
    return None


# ------------------------------------------------------------------ annotations


@dataclass
class AnnotationCheck:
    """Judges annotations one after the other; between them it remembers ids and texts only.

    sizes: (height, width) of the usable images by id. lost: ids of unusable images. categories:
    their ids. masks: each object must have a mask. evaluated: COCO's evaluation will read the
    annotations.
    """

    findings: Findings
    sizes: dict[int, Size]
    lost: set[int]
    categories: set[int]
    masks: bool
    evaluated: bool
    trainable: int = 0
    """Objects that a training can learn from."""
    _ids: set[int] = field(default_factory=set)
    _texts: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def judge_all(self, annotations: list[Any]) -> None:
        """Judge all annotations; a progress bar appears after some seconds."""
        bar = tqdm(annotations, desc="checking annotations", unit="", delay=3, leave=False)
        for place, entry in enumerate(bar):
            problem = self._problem(entry)
            if problem is not None:
                self.findings.refuse("annotations", place, entry, problem)
                continue
            self._ids.add(entry["id"])
            self._look_closer(place, entry)
            if len(self._texts) >= TEXTS_AT_ONCE:
                self._check_texts()
        self._check_texts()

    def _problem(self, entry: Any) -> str | None:
        needed = ("id", "image_id", "category_id", "bbox")
        missing = missing_field(
            entry, (*needed, "area", "iscrowd") if self.evaluated else needed
        ) or self._reference_problem(entry)
        if missing:
            return missing
        height, width = self.sizes[entry["image_id"]]
        return (
            box_problem(entry["bbox"], height, width)
            or _value_problem(entry)
            or self._mask_problem(entry, height, width)
        )

    def _reference_problem(self, entry: dict[str, Any]) -> str | None:
        own, image, category = entry["id"], entry["image_id"], entry["category_id"]
        if not is_id(own):
            return "with an 'id' that is not a whole number"
        if own in self._ids:
            return "with an 'id' that an annotation before has"
        if own == 0 and self.evaluated:
            return "with the id 0, which COCO's evaluation takes for no match"
        if type(image) is not int or image not in self.sizes:
            unusable = type(image) is int and image in self.lost
            return f"of an image that {'cannot be used' if unusable else 'is not listed'}"
        if type(category) is not int or category not in self.categories:
            return "of a category that is not listed"
        return None

    def _mask_problem(self, entry: dict[str, Any], height: int, width: int) -> str | None:
        mask = entry.get("segmentation")
        if not mask and mask in (None, [], {}, ""):
            return "without segmentation" if self.masks else None
        if type(mask) is list:
            return polygons_problem(mask, entry["bbox"], height, width, evaluated=self.evaluated)
        if type(mask) is dict:
            return runs_problem(mask, height, width)
        return "with a 'segmentation' that is neither polygons nor runs"

    def _look_closer(self, place: int, entry: dict[str, Any]) -> None:
        """Note harmless oddities, and collect texts of masks, which are judged many at a time."""
        height, width = self.sizes[entry["image_id"]]
        mask = entry.get("segmentation")
        odd = box_oddity(entry["bbox"], height, width)
        if odd is None and type(mask) is list:
            odd = polygons_oddity(mask)
        if odd is not None:
            self.findings.note("annotations", place, entry, odd)
        if type(mask) is dict and type(mask.get("counts")) is str:
            self._texts.append((place, entry))
        self.trainable += _is_trainable(entry)

    def _check_texts(self) -> None:
        masks = [entry["segmentation"] for _, entry in self._texts]
        pixels = [mask["size"][0] * mask["size"][1] for mask in masks]
        problems = texts_problems([mask["counts"] for mask in masks], pixels)
        for (place, entry), problem in zip(self._texts, problems, strict=True):
            if problem is not None:
                self.findings.refuse("annotations", place, entry, problem)
                self.trainable -= _is_trainable(entry)
        self._texts.clear()


def _is_trainable(entry: dict[str, Any]) -> bool:
    """Whether a training can learn from this object, which has no problem."""
    _, _, width, height = entry["bbox"]
    return bool(not entry.get("iscrowd") and width > 0 and height > 0)


def _value_problem(entry: dict[str, Any]) -> str | None:
    """The problem of a field beside box and mask that later readers would fail on or misread."""
    area, crowd = entry.get("area"), entry.get("iscrowd")
    if area is not None and (type(area) not in (int, float) or not 0 <= area < 1e15):
        return "with an 'area' that is not a number from 0 up"
    if crowd is not None and (type(crowd) not in (int, bool) or crowd not in (0, 1)):
        return "with an 'iscrowd' other than 0 and 1"
    if entry.get("ignore", 0) not in (0, False):
        return "with 'ignore', which nobody here looks at: set 'iscrowd' or remove them"
    points = entry.get("keypoints")
    if points and (type(points) is not list or not {int, float}.issuperset(map(type, points))):
        return "with 'keypoints' that are not a list of numbers"
    # The comparison is False for nan.
    if points and not all(-1e15 < point < 1e15 for point in points):
        return "with nan, infinity or an absurd number in 'keypoints'"
    return None
