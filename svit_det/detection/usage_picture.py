"""Converts detectron2's structures to the arrays of pictures, report and video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from svit_det.annotations import Demands, examine
from svit_det.detection.prediction import Prediction
from svit_det.errors import InputError
from svit_det.visualization import Objects, UsagePicture

DRAWN = Demands(trained=False, evaluated=False, masks=False, num_classes=None)
"""What drawing asks of annotations: boxes of listed images and categories; masks may be missing."""


def usage_picture(
    prediction: Prediction,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
    annotated: Objects | None = None,
    name: str = "",
) -> UsagePicture:
    """A prediction as arrays, with the detections of a score of at least `min_score`."""
    return UsagePicture(
        image=np.ascontiguousarray(prediction.image),
        keep=prediction.usage,
        grid=prediction.grid,
        name=name,
        found=found_objects(prediction.instances, min_score=min_score, class_names=class_names),
        annotated=annotated,
        attention=prediction.attention,
        macs=prediction.trunk_macs if any(prediction.trunk_macs) else None,
    )


def found_objects(
    instances: Instances, *, min_score: float, class_names: Sequence[str] | None
) -> Objects:
    """detectron2's detections, which are on the CPU, as arrays."""
    instances = instances[instances.scores >= min_score]
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    return Objects(
        boxes=instances.pred_boxes.tensor.numpy(),
        classes=instances.pred_classes.numpy(),
        scores=instances.scores.numpy(),
        masks=masks,
        names=tuple(class_names or ()),
    )


class Annotations:
    """The ground truth of a COCO-format json, image by image."""

    def __init__(self, json_file: str, *, skip_bad: bool = False) -> None:
        """skip_bad: leave out the entries that cannot be used.

        Raises InputError for a file that is missing or no COCO json, and without `skip_bad` for
        every entry that cannot be used.
        """
        examined = examine(json_file, None, DRAWN)
        if not examined.is_whole and not skip_bad:
            raise InputError(f"{json_file}: {examined.problems()}; correct them.")
        self.json_file = json_file
        self._images = {str(entry["file_name"]): entry for entry in examined.usable("images")}
        self.file_names = tuple(self._images)
        categories = sorted(examined.content["categories"], key=lambda each: each["id"])
        self.names = tuple(str(each["name"]) for each in categories)
        self._number = {each["id"]: number for number, each in enumerate(categories)}
        self._entries: dict[int, list[Mapping[str, Any]]] = {}
        for entry in examined.usable("annotations"):
            if not entry.get("iscrowd"):
                self._entries.setdefault(entry["image_id"], []).append(entry)

    def of(self, path: str | Path, size: tuple[int, int] | None = None) -> Objects | None:
        """The objects of an image by its file name, with or without folders; None if unknown.

        size: (height, width) of the picture. Raises InputError where the json says another size.
        """
        path = Path(path)
        for depth in range(len(path.parts)):
            image = self._images.get("/".join(path.parts[depth:]))
            if image is None:
                continue
            said = image["height"], image["width"]
            if size is not None and said != tuple(size):
                raise InputError(
                    f"{path}: {size[1]} x {size[0]} pixels, where the annotations say {said[1]} x "
                    f"{said[0]}; correct the json."
                )
            return self._objects(image["id"], said)
        return None

    def _objects(self, image_id: int, size: tuple[int, int]) -> Objects:
        entries = self._entries.get(image_id, [])
        boxes = np.array([e["bbox"] for e in entries], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # COCO's boxes are left, top, width, height
        masks = None
        if entries and all(e.get("segmentation") for e in entries):
            masks = EncodedMasks(runs=[_runs(e["segmentation"], size) for e in entries], size=size)
        classes = np.array([self._number[e["category_id"]] for e in entries], int)
        return Objects(boxes=boxes, classes=classes, masks=masks, names=self.names)


@dataclass(frozen=True, kw_only=True)
class EncodedMasks:
    """(n, h, w) bool: masks that stay run-length encoded until one of them is asked for.

    All masks of a large picture with hundreds of objects would not fit in memory.
    """

    runs: Sequence[Any]
    """pycocotools' compressed runs of each mask."""
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """n, h and w."""
        return len(self.runs), *self.size

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, which: Any) -> Any:
        """(h, w) bool of one mask, or the masks that an array picks."""
        places = np.arange(len(self))[which]
        if np.ndim(places):
            return replace(self, runs=[self.runs[place] for place in places])
        return coco_mask.decode(self.runs[places]).astype(bool)


def _runs(segmentation: Any, size: tuple[int, int]) -> Any:
    """Checked polygons or runs of an image of `size` as pycocotools' compressed runs."""
    if isinstance(segmentation, list):
        # pycocotools would stop at a polygon of fewer than three corners, or take it for a box.
        whole = [each for each in segmentation if len(each) >= 6 and len(each) % 2 == 0]
        return coco_mask.merge(coco_mask.frPyObjects(whole, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
