"""Mask R-CNN as one graph: detectron2's trained modules, combined without its data structures.

R proposals, K classes, D detections, M x M cells of a mask. One image at a time.

detectron2 filters boxes step by step. Here all boxes are carried along with a mark whether they
count, so that shapes are known until the end; only the number of detections depends on the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.backbone import KEEP_MAPS, BackboneGraph
from svit_det.export.boxes import LevelPooler, apart_by_class, clipped, survives_nms


class Proposals(nn.Module):
    """detectron2's RPN: the boxes that may hold an object."""

    def __init__(self, rpn: nn.Module) -> None:
        super().__init__()
        self.rpn = rpn

    def forward(self, maps: dict[str, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Maps by name -> boxes (R, 4) by falling score, and (R,) bool, whether a box counts."""
        rpn = self.rpn
        features = [maps[name] for name in rpn.in_features]
        anchors = rpn.anchor_generator(features)
        levels = zip(anchors, *rpn.rpn_head(features), strict=True)
        found = [self._of_level(*level, height=height, width=width) for level in levels]
        boxes, scores = (torch.cat(each) for each in zip(*found, strict=True))
        number = torch.sym_min(rpn.post_nms_topk[False], scores.shape[0])
        best = scores.topk(number)
        return boxes.index_select(0, best.indices), best.values > -torch.inf

    def _of_level(
        self, anchors: object, score: Tensor, deltas: Tensor, *, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The best boxes of one level and their scores; -inf for a box that does not count."""
        rpn = self.rpn
        score = score[0].permute(1, 2, 0).flatten()
        deltas = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        top = score.topk(torch.sym_min(rpn.pre_nms_topk[False], score.shape[0]))
        boxes = rpn.box2box_transform.apply_deltas(
            deltas.index_select(0, top.indices), anchors.tensor.index_select(0, top.indices)
        )
        finite = boxes.isfinite().all(dim=1) & top.values.isfinite()
        boxes = clipped(boxes, height, width)
        sides = boxes[:, 2:] - boxes[:, :2]
        counts = finite & (sides > rpn.min_box_size).all(dim=1)
        counts = survives_nms(boxes, top.values, counts, rpn.nms_thresh)
        return boxes, torch.where(counts, top.values, -torch.inf)


class DetectorGraph(nn.Module):
    """A whole detector: detections in pixels of its input, and every block's keep map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        check_exportable(model)
        heads = model.roi_heads
        self.body = BackboneGraph(model)
        self.proposals = Proposals(model.proposal_generator)
        self.box_maps, self.mask_maps = heads.box_in_features, heads.mask_in_features
        self.box_pooler, self.mask_pooler = (
            LevelPooler(heads.box_pooler),
            LevelPooler(heads.mask_pooler),
        )
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor
        self.mask_head = heads.mask_head

    @property
    def outputs(self) -> list[str]:
        """The names of `forward`'s outputs, in their order."""
        return ["boxes", "scores", "classes", "mask_logits", KEEP_MAPS]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, height, width) pixels, 0 to 255 -> the detections, by falling score.

        boxes (D, 4), scores (D,), classes (D,) int64, mask logits (D, M, M) inside each box, and
        the keep maps (1, L, H, W).
        """
        height, width = image.shape[2:]
        maps, keep = self.body.maps_of(image)
        proposals, counts = self.proposals(maps, height, width)
        pooled = self.box_pooler([maps[name] for name in self.box_maps], proposals)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        boxes = self.box_predictor.box2box_transform.apply_deltas(deltas, proposals)
        found = self._detections(boxes, self._scores(logits), counts, height, width)
        masks = self._masks(maps, found[0], found[2])
        return (*found, masks, keep)

    def _scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) logits -> probabilities, as detectron2's `predict_probs` takes them.

        Its own method splits them by image, by numbers that a graph would hold for constant.
        """
        return logits.sigmoid() if self.box_predictor.use_sigmoid_ce else logits.softmax(dim=-1)

    def _detections(
        self, boxes: Tensor, scores: Tensor, counts: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """boxes (R, 4 K) or (R, 4), scores (R, K + 1) -> boxes, scores, classes of D detections."""
        predictor = self.box_predictor
        counts = counts & boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        scores = scores[:, :-1]
        number, num_classes = scores.shape
        boxes = clipped(boxes.reshape(number, -1, 4), height, width)
        boxes = boxes.expand(-1, num_classes, -1).reshape(-1, 4)
        classes = torch.arange(num_classes, device=boxes.device).repeat(number)
        counts = ((scores > predictor.test_score_thresh) & counts.unsqueeze(1)).flatten()
        scores = scores.flatten()
        apart = apart_by_class(boxes, classes) if num_classes > 1 else boxes
        counts = survives_nms(apart, scores, counts, predictor.test_nms_thresh)
        most, limit = scores.shape[0], predictor.test_topk_per_image
        best = torch.where(counts, scores, -1.0).topk(
            torch.sym_min(limit, most) if limit >= 0 else most
        )
        chosen = best.indices.index_select(0, (best.values > -1).nonzero().squeeze(1))
        return tuple(each.index_select(0, chosen) for each in (boxes, scores, classes))

    def _masks(self, maps: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """(D, M, M) logits of each detection's own class."""
        pooled = self.mask_pooler([maps[name] for name in self.mask_maps], boxes)
        logits = self.mask_head.layers(pooled)
        if logits.shape[1] == 1:  # one class, or one mask for all classes
            return logits[:, 0]
        own = classes.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, own)[:, 0]


def check_exportable(model: nn.Module) -> None:
    """Raise InputError for a detector that is no Mask R-CNN with a single box head."""
    heads = getattr(model, "roi_heads", None)
    wanted = ("box_pooler", "mask_pooler", "box_head", "box_predictor", "mask_head")
    missing = heads is None or any(getattr(heads, name, None) is None for name in wanted)
    if missing or isinstance(heads.box_head, nn.ModuleList):
        kind = type(model if heads is None else heads).__name__
        raise InputError(
            f"{kind}: of whole detectors, Mask R-CNN with standard heads alone is exported; give "
            "--part backbone."
        )
