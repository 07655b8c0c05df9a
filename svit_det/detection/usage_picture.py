"""Converts detectron2's structures to the arrays of pictures, report and video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            masks = np.stack([_mask(e["segmentation"], size) for e in entries])
        classes = np.array([self._number[e["category_id"]] for e in entries], int)
        return Objects(boxes=boxes, classes=classes, masks=masks, names=self.names)


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: checked polygons or runs as pixels."""
    if isinstance(segmentation, list):
        # pycocotools would stop at a polygon of fewer than three corners, or take it for a box.
        whole = [each for each in segmentation if len(each) >= 6 and len(each) % 2 == 0]
        segmentation = coco_mask.merge(coco_mask.frPyObjects(whole, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    mask: np.ndarray = coco_mask.decode(segmentation).astype(bool)
    return mask
