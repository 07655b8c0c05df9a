"""Converts detectron2's structures to the arrays of pictures, report and video."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from pycocotools.coco import COCO

from svit_det.detection.prediction import Prediction
from svit_det.errors import InputError
from svit_det.visualization import Objects, UsagePicture


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

    def __init__(self, json_file: str) -> None:
        """Raises InputError for a file that is missing or holds no COCO annotations."""
        try:
            # COCO prints to stdout while it reads; stdout is for results.
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                self._coco = COCO(json_file)
            self._ids = {
                str(entry["file_name"]): entry["id"] for entry in self._coco.dataset["images"]
            }
            self.file_names = tuple(self._ids)
            categories = sorted(self._coco.dataset["categories"], key=lambda each: each["id"])
            self.names = tuple(str(each["name"]) for each in categories)
            self._number = {each["id"]: number for number, each in enumerate(categories)}
        except OSError as error:
            raise InputError(f"{json_file}: cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise InputError(f"{json_file}: not a COCO instance file ({error!r}).") from error

    def of(self, path: str | Path) -> Objects | None:
        """The objects of an image by its file name, with or without folders; None if unknown."""
        path = Path(path)
        for depth in range(len(path.parts)):
            key = "/".join(path.parts[depth:])
            if key in self._ids:
                return self._objects(self._ids[key])
        return None

    def _objects(self, image_id: int) -> Objects:
        entries = [e for e in self._coco.imgToAnns.get(image_id, []) if not e.get("iscrowd")]
        boxes = np.array([e["bbox"] for e in entries], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # COCO's boxes are left, top, width, height
        masks = None
        if entries and all(e.get("segmentation") for e in entries):
            masks = np.stack([self._mask(e) for e in entries])
        classes = np.array([self._number[e["category_id"]] for e in entries], int)
        return Objects(boxes=boxes, classes=classes, masks=masks, names=self.names)

    def _mask(self, entry: Mapping[str, Any]) -> np.ndarray:
        mask: np.ndarray = self._coco.annToMask(entry).astype(bool)
        return mask
