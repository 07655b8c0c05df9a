"""An exported detector with detectron2's inputs and outputs, for detectron2's evaluators."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.running import load


class ExportedDetector(nn.Module):
    """Runs a file of tools/export.py on detectron2's inputs, which must have the file's size."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._run, self.about = load(path)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """One output for each input: its instances, and `token_usage` (L, H, W) bool."""
        return [self._one(given) for given in batched_inputs]

    def _one(self, given: dict) -> dict:
        image: Tensor = given["image"]
        size = self.about["input"]["size"]
        if size is not None and list(image.shape[1:]) != size:
            raise InputError(
                f"{self.path}: takes pictures of {size[0]} x {size[1]} pixels, not of "
                f"{image.shape[1]} x {image.shape[2]}."
            )
        found = [torch.from_numpy(each) for each in self._run(image.float().unsqueeze(0))]
        boxes, scores, classes, masks, keep = found
        instances = Instances(
            tuple(image.shape[1:]),
            pred_boxes=Boxes(boxes),
            scores=scores,
            pred_classes=classes,
            pred_masks=masks.sigmoid().unsqueeze(1),
        )
        pasted = detector_postprocess(instances, given["height"], given["width"])
        return {"instances": pasted, "token_usage": keep[0]}
