"""Refusing parts of detectron2 that exist but cannot work in a detector over a token network."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY

from svit_det.errors import InputError

OURS = ("TokenRCNN", "TokenRetinaNet")
"""The meta-architectures over a token network."""
WITH_LEVELS = "build_plain_vit_simple_pyramid_backbone or build_vit_adapter_fpn_backbone"
BARE = {"build_plain_vit_backbone": "last_feat", "build_vit_adapter_backbone": "res"}
"""Backbones without a pyramid, and how the names of their maps begin."""
UNFIT = {
    ("ANCHOR_GENERATOR", "NAME", "RotatedAnchorGenerator"): "boxes of sets are upright here",
    ("PROPOSAL_GENERATOR", "NAME", "RRPN"): "boxes of sets are upright here",
    ("ROI_HEADS", "NAME", "RROIHeads"): "boxes of sets are upright here",
    ("ROI_HEADS", "NAME", "Res5ROIHeads"): "its head is the last stage of a ResNet",
    ("PROPOSAL_GENERATOR", "NAME", "PrecomputedProposals"): "no file of proposals is read here",
    ("ROI_BOX_HEAD", "USE_FED_LOSS", True): "sets hold no count of images by class here",
}
"""Node, key and value of a part of detectron2, and why the part cannot work."""
SWITCHES = {
    "LOAD_PROPOSALS": "no file of proposals is read here",
    "KEYPOINT_ON": "key points of sets are not read here",
}


def check_parts(cfg: CfgNode) -> None:
    """Refuse parts that would fail in the first step, or in the middle of a run.

    Other meta-architectures than this project's are not judged. Raises InputError that names the
    key.
    """
    model = cfg.MODEL
    if model.META_ARCHITECTURE not in OURS:
        return
    for (node, key, value), reason in UNFIT.items():
        is_read = node == "ANCHOR_GENERATOR" or model.META_ARCHITECTURE == "TokenRCNN"
        if is_read and model[node][key] == value:
            raise _refusal(f"{node}.{key}", str(value), model, reason)
    if model.META_ARCHITECTURE == "TokenRCNN":
        _check_box_head(model.ROI_BOX_HEAD)
    for key, reason in SWITCHES.items():
        if model[key]:
            raise _refusal(key, "True", model, reason)
    _check_anchors(model.ANCHOR_GENERATOR)
    _check_backbone(model)


def _check_box_head(head: CfgNode) -> None:
    if head.NAME == "FastRCNNConvFCHead" and not head.NUM_FC + head.NUM_CONV:
        raise InputError(
            "MODEL.ROI_BOX_HEAD.NUM_FC and NUM_CONV are both 0: give the head one layer at least."
        )


def _check_anchors(anchors: CfgNode) -> None:
    """Refuse levels with different numbers of anchors. A single entry is that of every level."""
    sizes, ratios = ([len(level) for level in anchors[key]] for key in ("SIZES", "ASPECT_RATIOS"))
    levels = max(len(sizes), len(ratios))
    sizes, ratios = (each * levels if len(each) == 1 else each for each in (sizes, ratios))
    if len({number * shapes for number, shapes in zip(sizes, ratios, strict=False)}) > 1:
        raise InputError(
            "MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS: give each level as many anchors."
        )


def _check_backbone(model: CfgNode) -> None:
    name = model.BACKBONE.NAME
    if BACKBONE_REGISTRY.get(name).__module__.partition(".")[0] == "detectron2":
        raise _refusal("BACKBONE.NAME", name, model, f"it prunes no tokens; choose {WITH_LEVELS}")
    begin = BARE.get(name)
    nodes = ("RPN", "ROI_HEADS") if model.META_ARCHITECTURE == "TokenRCNN" else ("RETINANET",)
    for node in nodes:
        odd = [each for each in model[node].IN_FEATURES if not str(each).startswith(begin or "")]
        if odd:
            reason = f"it has no map {odd[0]} (MODEL.{node}.IN_FEATURES); choose {WITH_LEVELS}"
            raise _refusal("BACKBONE.NAME", name, model, reason)


def _refusal(key: str, value: str, model: CfgNode, reason: str) -> InputError:
    return InputError(
        f"MODEL.{key}: {value} cannot work in {model.META_ARCHITECTURE}, because {reason}."
    )
