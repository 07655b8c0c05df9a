"""Evaluation: accuracy, arithmetic from the records, tokens by block, images per second.

B images, L blocks. Arithmetic is counted in multiply-adds. The papers on vision transformers call
these FLOPs: 4.6 G for DeiT-S.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from svit_det.classification.folder import LabelledImages
from svit_det.classification.images import READABLE
from svit_det.classification.model import LOGITS, TokenClassifier
from svit_det.classification.processes import Processes
from svit_det.errors import InputError, printable
from svit_det.tokens import PassRecord
from svit_det.vit.flops import trunk_macs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The results of a split."""

    images: int
    unreadable: int
    top1: float
    """Percent."""
    top5: float
    """Percent; with five classes or fewer it is 100 by definition."""
    gmacs: float
    """Giga multiply-adds of the whole classifier, mean of the images."""
    dense_gmacs: float
    """Giga multiply-adds with every token in every block and no decision."""
    tokens_per_block: list[float]
    """Patch tokens that each block kept, mean of the images."""
    tokens: int
    """Patch tokens of an image."""
    images_per_second: float
    """Images of all processes over the seconds of their forward passes, after a warm-up."""

    def as_dict(self) -> dict[str, Any]:
        """The results as a dict, for JSON."""
        return asdict(self)


def image_macs(model: TokenClassifier, record: PassRecord) -> tuple[Tensor, int]:
    """(B,) multiply-adds of the whole classifier for each image; those of the dense classifier."""
    spent = trunk_macs(model.trunk, record)
    return spent.total + model.head_macs, spent.dense_total + model.head_macs


@torch.no_grad()
def evaluate(
    model: TokenClassifier,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    images: LabelledImages,
    where: Processes | None = None,
    *,
    show: bool = True,
) -> Evaluation:
    """Run `model` over the images of `loader`: this process's share of `images`.

    An image that cannot be read is named in the log and counted, and counts in no other number.
    Raises InputError where no image can be read.
    """
    where = where or Processes()
    device = next(model.parameters()).device
    depth = model.trunk.depth
    # Images, unreadable images, correct at once, correct among five, multiply-adds, seconds, then
    # the kept tokens of each block.
    sums = torch.zeros(6 + depth, dtype=torch.float64)
    dense = tokens = 0
    was_training = model.training
    model.eval()
    for pixels, labels, unreadable in tqdm(
        loader, desc="evaluation", unit="batch", disable=not (show and where.is_first), leave=False
    ):
        for number in unreadable[unreadable != READABLE].tolist():
            path = printable(images.files[number][0])
            logger.warning("%s cannot be read and is left out.", path)
        readable = unreadable == READABLE
        sums[1] += int((~readable).sum())
        pixels, labels = pixels[readable].to(device), labels[readable]
        if not len(pixels):
            continue
        if not sums[0]:
            model(pixels)  # a warm-up: the first pass also pays for the start of the device
        start = _now(device)
        outputs, record = model(pixels)
        seconds = _now(device) - start
        best = outputs[LOGITS].float().topk(min(5, model.num_classes), dim=1).indices.cpu()
        hits = best == labels[:, None]
        macs, dense = image_macs(model, record)
        tokens = record.grid.num_tokens
        sums[0] += len(pixels)
        sums[2] += int(hits[:, 0].sum())
        sums[3] += int(hits.sum())
        sums[4] += float(macs.sum())
        sums[5] += seconds
        sums[6:] += record.counts().sum(dim=0).cpu().double()
    model.train(was_training)
    sums = where.total(sums.to(device if device.type == "cuda" else "cpu")).cpu()
    count = sums[0].item()
    if not count:
        raise InputError(f"{images.folder}: not one of its images can be read.")
    if sums[1]:
        logger.warning("%d images of %s cannot be read.", int(sums[1]), printable(images.folder))
    return Evaluation(
        images=int(count),
        unreadable=int(sums[1]),
        top1=100 * sums[2].item() / count,
        top5=100 * sums[3].item() / count,
        gmacs=sums[4].item() / count / 1e9,
        dense_gmacs=dense / 1e9,
        tokens_per_block=(sums[6:] / count).tolist(),
        tokens=tokens,
        images_per_second=where.count * count / max(sums[5].item(), 1e-9),
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
