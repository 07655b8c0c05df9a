"""Boxes inside a graph: suppression and pooling whose shapes do not depend on the detections.

R boxes of one image, A cells of a pooled square, C channels. Boxes are (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from svit_det.errors import InputError

FAR, FARTHER = (-2.0, -2.0, -1.0, -1.0), (-4.0, -4.0, -3.0, -3.0)
"""Two boxes that overlap no box of an image. All boxes that do not count are moved to FAR: one of
them suppresses the others in a single step, and they suppress no other box."""


def survives_nms(boxes: Tensor, scores: Tensor, counts: Tensor, threshold: float) -> Tensor:
    """(R,) bool: the boxes that suppression leaves, of the boxes whose `counts` (R,) is true.

    The number of survivors depends on the image, but no shape depends on it.
    """
    far = torch.tensor([FAR, FARTHER], dtype=boxes.dtype, device=boxes.device)
    placed = torch.where(counts.unsqueeze(1), boxes, far[0])
    # FAR and FARTHER always have a survivor each: torch only exports an nms that leaves at least
    # two boxes.
    placed, ranked = torch.cat([placed, far]), torch.cat([scores, scores.new_zeros(2)])
    survives = torch.zeros_like(ranked).scatter(0, nms(placed, ranked, threshold), 1.0)
    return (survives[:-2] > 0) & counts


def apart_by_class(boxes: Tensor, classes: Tensor) -> Tensor:
    """(R, 4) boxes, moved so that boxes of different classes never overlap."""
    step = boxes.max() + 1
    return boxes + (classes.to(boxes.dtype) * step).unsqueeze(1)


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """(..., 4) boxes cut to a picture of `height` x `width` pixels."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    corners = (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height))
    return torch.stack(corners, dim=-1)


class LevelPooler(nn.Module):
    """detectron2's `ROIPooler` for one image: each box is pooled from the level of its size."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        aligns = list(pooler.level_poolers)
        if not all(
            hasattr(align, "sampling_ratio") and hasattr(align, "aligned") for align in aligns
        ):
            raise InputError(
                "ROI_BOX_HEAD.POOLER_TYPE and ROI_MASK_HEAD.POOLER_TYPE must be ROIAlignV2 or "
                "ROIAlign to be exported."
            )
        self.aligns = aligns
        self.size = pooler.output_size
        self.min_level, self.max_level = pooler.min_level, pooler.max_level
        self.canonical = (pooler.canonical_box_size, pooler.canonical_level)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Maps (1, C, h, w) from fine to coarse and boxes (R, 4) -> (R, C, A, A)."""
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        if len(self.aligns) == 1:
            return self._pool(0, maps[0], rois)
        level = self.level_of(boxes)
        pooled = maps[0].new_zeros(boxes.shape[0], maps[0].shape[1], *self.size)
        for index, feature_map in enumerate(maps):
            members = (level == index).nonzero().squeeze(1)
            part = self._pool(index, feature_map, rois.index_select(0, members))
            pooled = pooled.index_put((members,), part)
        return pooled

    def level_of(self, boxes: Tensor) -> Tensor:
        """(R,) the level that each box belongs to, from 0 (FPN, Lin et al. 2017, eq. 1)."""
        size, level = self.canonical
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        wanted = torch.floor(level + torch.log2(area.sqrt() / size + 1e-8))
        return wanted.clamp(self.min_level, self.max_level).long() - self.min_level

    def _pool(self, index: int, feature_map: Tensor, rois: Tensor) -> Tensor:
        align = self.aligns[index]
        return roi_align(
            feature_map, rois, self.size, align.spatial_scale, align.sampling_ratio, align.aligned
        )
