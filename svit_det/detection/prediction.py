"""Prediction: a model's results on one picture, and their conversion to other formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from svit_det.errors import InputError
from svit_det.tokens import TokenGrid


@dataclass(frozen=True)
class Prediction:
    """One image and the model's results. L blocks, H x W tokens of the image."""

    image: np.ndarray
    """(height, width, 3) uint8 RGB, as it was read."""
    instances: Instances
    """detectron2's Instances, in pixels of `image`, on the CPU."""
    usage: np.ndarray
    """(L, H, W) bool: block l kept this token."""
    grid: TokenGrid
    """The pixels that each token stands for, in the network's input of this image."""
    attention: np.ndarray | None = None
    """(L, H, W) float, what the class token attended to in each block, under `AttentionProbe`."""
    name: str = ""
    """The picture's path, the film's path with the frame's number, or the place in the source."""
    seconds: float = 0.0
    """Seconds of the model alone; in a batch, the batch's seconds over its number of pictures."""
    trunk_macs: tuple[int, int] = (0, 0)
    """Multiply-adds of the trunk for this picture, and of the dense trunk."""
    category_ids: tuple[int, ...] | None = None
    """The id of each class in the json that the model was trained on; None: unknown."""

    @property
    def kept_shares(self) -> np.ndarray:
        """(L,) share of the image's tokens that each block kept."""
        return self.usage.mean(axis=(1, 2))

    def found(self, min_score: float) -> Instances:
        """The instances with a score of at least `min_score`."""
        return self.instances[self.instances.scores >= min_score]

    def to_supervision(self, min_score: float = 0.5) -> Any:
        """The instances as supervision's Detections. Raises InputError without supervision."""
        try:
            from supervision import Detections
        except ImportError as error:
            raise InputError(
                "to_supervision needs supervision, which is not installed: pip install supervision."
            ) from error
        instances = self.found(min_score)
        masks = instances.pred_masks.numpy().astype(bool) if instances.has("pred_masks") else None
        return Detections(
            xyxy=instances.pred_boxes.tensor.numpy(),
            confidence=instances.scores.numpy(),
            class_id=instances.pred_classes.numpy().astype(int),
            mask=masks,
        )

    def to_coco(self, image_id: int, min_score: float = 0.0) -> list[dict[str, Any]]:
        """The instances as COCO's result entries.

        `category_id` is the id that the json of the training set gives the class, or the model's
        class plus 1 where the weights do not say it (`category_ids`). `image_id` is the caller's: a
        picture's name tells its id in a json. Boxes are [x, y, width, height] in pixels; masks are
        compressed RLE as text.
        """
        instances, ids = self.found(min_score), self.category_ids
        boxes = instances.pred_boxes.tensor.numpy().astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        entries: list[dict[str, Any]] = [
            {
                "image_id": image_id,
                "category_id": ids[int(label)] if ids else int(label) + 1,
                "bbox": [round(value, 2) for value in box.tolist()],
                "score": float(score),
            }
            for box, label, score in zip(
                boxes, instances.pred_classes, instances.scores, strict=True
            )
        ]
        if instances.has("pred_masks"):
            for entry, mask in zip(entries, instances.pred_masks.numpy(), strict=True):
                rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                area = float(coco_mask.area(rle))
                entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
                entry["area"] = area
        return entries


def coco_json(
    predictions: Sequence[Prediction],
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int,
    min_score: float = 0.0,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """A COCO instance file of predictions. Ids of images and annotations begin at 1.

    Each annotation has a score, so that the list of annotations alone is a COCO result file of
    these images. Classes without names are called "class 1" and so on. category_ids: the ids of the
    classes in the json of the training set; None: those of the predictions, or 1, 2, ... where
    these know none.
    """
    names = class_names or [f"class {number}" for number in range(1, num_classes + 1)]
    if category_ids is None and predictions:
        category_ids = predictions[0].category_ids
    ids = category_ids or range(1, len(names) + 1)
    if len(ids) != len(names):
        raise InputError(f"class_names: {len(names)} names for a model of {len(ids)} classes.")
    images, annotations = [], []
    for image_id, each in enumerate(predictions, start=1):
        height, width = each.image.shape[:2]
        images.append({"id": image_id, "file_name": each.name, "height": height, "width": width})
        annotations += each.to_coco(image_id, min_score)
    for number, entry in enumerate(annotations, start=1):
        _, _, width, height = entry["bbox"]
        entry |= {"id": number, "iscrowd": 0, "area": entry.get("area", width * height)}
    return {
        "images": images,
        "categories": [{"id": n, "name": name} for n, name in zip(ids, names, strict=True)],
        "annotations": annotations,
    }
