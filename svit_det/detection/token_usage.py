"""TokenUsageEvaluator: the kept tokens inside and outside of objects, evaluated beside COCO's AP.

L blocks, H x W tokens of one image, without its padding.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from contextlib import redirect_stdout
from pathlib import Path

import detectron2.utils.comm as comm
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from pycocotools.coco import COCO
from tabulate import tabulate
from torch import Tensor

from svit_det.detection.token_losses import TokenLosses
from svit_det.errors import InputError
from svit_det.results import write_json
from svit_det.tokens import TokenGrid
from svit_det.tokens.usage import count, kept_shares, kept_twice, overlaps, returning

logger = logging.getLogger(__name__)

SETS = ("all", "inside_gt", "outside_gt", "inside_pred", "outside_pred")
"""All tokens; tokens on and off the annotated objects; tokens on and off the predicted objects."""


class TokenUsageEvaluator(DatasetEvaluator):
    """Kept share per block and set of tokens, over all images and image by image.

    `evaluate` returns {"token_usage": {set: kept percent of its tokens, mean over blocks}} and logs
    a table by block. It writes `token_usage.json` with this table, the overlap of each block's
    tokens with the block before, the trunk's giga multiply-adds, and the counts of each image. A
    predicted object counts from a score of `min_score` on. Crowd regions count as objects.
    """

    def __init__(
        self, dataset_name: str, *, patch_size: int, output_dir: str | None, min_score: float = 0.5
    ) -> None:
        self._patch_size = patch_size
        self._output_dir = output_dir
        self._min_score = min_score
        json_file = getattr(MetadataCatalog.get(dataset_name), "json_file", None)
        # COCO prints to stdout while it reads; stdout is for results.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            self._annotations = COCO(json_file) if json_file else None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take in one batch: detectron2's inputs, and outputs with `token_usage` (L, H, W) bool."""
        for given, output in zip(inputs, outputs, strict=True):
            if "token_usage" not in output:
                raise InputError(
                    "TEST.TOKEN_USAGE: the meta-architecture leaves no token usage; choose "
                    "TokenRCNN or TokenRetinaNet, or set it False."
                )
            usage = output["token_usage"].cpu()
            counts = {"all": count(usage, torch.ones_like(usage[0]))}
            for name, mask in (
                ("gt", self._annotated(given)),
                ("pred", self._predicted(output, given)),
            ):
                if mask is None:
                    continue
                height, width = given["image"].shape[-2:]
                grid = TokenGrid((height, width), self._patch_size)
                inside = grid.inside(mask)
                counts[f"inside_{name}"] = count(usage, inside)
                counts[f"outside_{name}"] = count(usage, ~inside)
            self._images.append(
                {
                    "image_id": given.get("image_id"),
                    "file_name": given.get("file_name"),
                    **counts,
                    "kept_twice": kept_twice(usage),
                    "trunk_macs": output["trunk_macs"],
                }
            )

    def _annotated(self, given: dict) -> Tensor | None:
        if self._annotations is None:
            return None
        coco = self._annotations
        mask = np.zeros((given["height"], given["width"]), dtype=bool)
        for annotation in coco.imgToAnns.get(given["image_id"], []):
            if annotation.get("segmentation"):
                mask |= coco.annToMask(annotation).astype(bool)
        return torch.from_numpy(mask)

    def _predicted(self, output: dict, given: dict) -> Tensor | None:
        instances = output["instances"]
        if not instances.has("pred_masks"):
            return None
        masks = instances.pred_masks[instances.scores >= self._min_score]
        return (
            masks.any(dim=0).cpu() if len(masks) else torch.zeros(given["height"], given["width"])
        )

    def evaluate(self) -> OrderedDict | None:
        """Percentages over all images on the main process; None on the other processes."""
        gathered = comm.gather(self._images)
        if not comm.is_main_process():
            return None
        images = [image for part in gathered for image in part]
        usage = OrderedDict(
            (name, kept_shares(images, name)) for name in SETS if images and name in images[0]
        )
        spent = np.array([image["trunk_macs"] for image in images]).reshape(-1, 2) / 1e9
        pruned, dense = spent.mean(axis=0) if images else (0.0, 0.0)
        if self._output_dir:
            content = {
                "trunk_gmacs": float(pruned),
                "dense_trunk_gmacs": float(dense),
                "kept_share_per_block": {name: each.tolist() for name, each in usage.items()},
                "overlap_with_block_before": overlaps(images).tolist() if images else [],
                "share_that_block_before_skipped": returning(images).tolist() if images else [],
                "images": images,
            }
            write_json(Path(self._output_dir) / "token_usage.json", content)
        if not usage:
            return OrderedDict(token_usage={})
        logger.info(
            "Kept tokens in percent, by block and set, and how far they are those of the block "
            "before (both over either):\n%s",
            usage_table(usage, overlaps(images)),
        )
        logger.info(
            "Multiply-adds of the trunk, mean of the images: %.2f G, of %.2f G dense.",
            pruned,
            dense,
        )
        means = {name: 100 * float(shares.mean()) for name, shares in usage.items()}
        return OrderedDict(token_usage=means)


def usage_table(usage: dict[str, np.ndarray], overlap: np.ndarray) -> str:
    """A table of kept percents: a row for each block, then their mean; a column for each set."""
    rows = [
        [index, *(100 * column[index] for column in usage.values())]
        for index in range(len(next(iter(usage.values()))))
    ]
    for row, value in zip(rows, [None, *(100 * overlap)], strict=True):
        row.append(value)
    rows.append(["mean", *(100 * column.mean() for column in usage.values())])
    headers = ["block", *(name.replace("_", " ") for name in usage), "overlap"]
    return tabulate(rows, headers=headers, floatfmt=".1f")


def check_usage(cfg: CfgNode) -> None:
    """Refuse, before hours of training, a meta-architecture whose outputs have no token usage.

    Raises InputError that names the key.
    """
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if cfg.TEST.TOKEN_USAGE and isinstance(model, type) and not issubclass(model, TokenLosses):
        raise InputError(
            f"MODEL.META_ARCHITECTURE: {model.__name__} leaves no token usage to evaluate; choose "
            "TokenRCNN or TokenRetinaNet, or set TEST.TOKEN_USAGE False."
        )
