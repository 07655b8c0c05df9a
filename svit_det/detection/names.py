"""Checks for unregistered names, and for values that do not fit each other."""

from __future__ import annotations

import difflib

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from detectron2.utils.registry import Registry

from svit_det.errors import InputError
from svit_det.settings import shown

GROUPS_OF_GN = 32
"""Number of groups of detectron2's GN."""


def check_names(cfg: CfgNode) -> None:
    """Refuse names that detectron2 would not find while it builds the model."""
    model = cfg.MODEL
    chosen: dict[str, tuple[str, Registry]] = {
        "META_ARCHITECTURE": (model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        "BACKBONE.NAME": (model.BACKBONE.NAME, BACKBONE_REGISTRY),
        "ANCHOR_GENERATOR.NAME": (model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        "PROPOSAL_GENERATOR.NAME": (model.PROPOSAL_GENERATOR.NAME, PROPOSAL_GENERATOR_REGISTRY),
        "RPN.HEAD_NAME": (model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY),
        "ROI_HEADS.NAME": (model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        "ROI_BOX_HEAD.NAME": (model.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY),
        "ROI_MASK_HEAD.NAME": (model.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY),
    }
    # Res5ROIHeads alone has its box head inside, and needs no name of one.
    may_be_empty = {"ROI_BOX_HEAD.NAME"} if model.ROI_HEADS.NAME == "Res5ROIHeads" else set()
    if "RetinaNet" in model.META_ARCHITECTURE:
        may_be_empty = {key for key in chosen if key.startswith("ROI_")}
    for key, (name, registry) in chosen.items():
        if name in registry or name == "PrecomputedProposals" or (not name and key in may_be_empty):
            continue
        nearest = _nearest(name, [known for known, _ in registry])
        raise InputError(
            f"MODEL.{key}: no {shown(name)} is registered; the nearest is '{nearest}'."
        )


def _nearest(name: str, known: list[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


# ------------------------------------------------------------------ what must go together


def check_agreement(cfg: CfgNode) -> None:
    """Refuse values that are valid alone but do not fit each other."""
    for node in ("RPN", "ROI_HEADS", "RETINANET"):
        _check_labels(f"MODEL.{node}", cfg.MODEL[node])
    _check_cascade(cfg.MODEL)
    _check_sizes(cfg.INPUT)
    _check_groups(cfg.MODEL)
    if 0 in cfg.MODEL.RPN.CONV_DIMS:
        raise InputError("MODEL.RPN.CONV_DIMS: 0 channels; -1 stands for as many as come in.")
    solver = cfg.SOLVER
    processes = solver.REFERENCE_WORLD_SIZE
    if processes and solver.IMS_PER_BATCH % processes:
        raise InputError(
            f"SOLVER.REFERENCE_WORLD_SIZE: {processes} does not divide SOLVER.IMS_PER_BATCH, "
            f"{solver.IMS_PER_BATCH}."
        )
    if list(solver.STEPS) != sorted(set(solver.STEPS)):
        raise InputError(
            f"SOLVER.STEPS: {shown(list(solver.STEPS))} must rise from entry to entry."
        )
    falls = [step for step in solver.STEPS if step <= solver.MAX_ITER]
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and len(falls) >= solver.MAX_ITER > 0:
        raise InputError(
            f"SOLVER.STEPS: {shown(falls)} are too many for SOLVER.MAX_ITER {solver.MAX_ITER}; a "
            "training needs more steps than the rate falls."
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise InputError(
            f"SOLVER.BASE_LR_END: {solver.BASE_LR_END} must not exceed SOLVER.BASE_LR, "
            f"{solver.BASE_LR}."
        )
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and solver.MOMENTUM == 0:
        raise InputError("SOLVER.NESTEROV: needs a SOLVER.MOMENTUM above 0.")


def _check_labels(key: str, node: CfgNode) -> None:
    thresholds, labels = list(node.IOU_THRESHOLDS), list(node.IOU_LABELS)
    if thresholds != sorted(thresholds):
        raise InputError(f"{key}.IOU_THRESHOLDS: {shown(thresholds)} must rise.")
    if len(labels) != len(thresholds) + 1:
        raise InputError(
            f"{key}.IOU_LABELS: {len(labels)} labels for {len(thresholds)} IOU_THRESHOLDS; there "
            "must be one more label than thresholds."
        )


def _check_cascade(model: CfgNode) -> None:
    if model.ROI_HEADS.NAME != "CascadeROIHeads":
        return
    cascade, key = model.ROI_BOX_CASCADE_HEAD, "MODEL.ROI_BOX_CASCADE_HEAD"
    if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        raise InputError(
            f"{key}.IOUS: {len(cascade.IOUS)} entries for {len(cascade.BBOX_REG_WEIGHTS)} "
            "BBOX_REG_WEIGHTS; each stage has one of both."
        )
    if cascade.IOUS[0] != model.ROI_HEADS.IOU_THRESHOLDS[0]:
        raise InputError(
            f"{key}.IOUS: begins with {cascade.IOUS[0]}, MODEL.ROI_HEADS.IOU_THRESHOLDS with "
            f"{model.ROI_HEADS.IOU_THRESHOLDS[0]}; the first stage has only one threshold."
        )
    if not model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise InputError("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG: must be True for a cascade.")


def _check_sizes(node: CfgNode) -> None:
    sizes = list(node.MIN_SIZE_TRAIN)
    if node.MIN_SIZE_TRAIN_SAMPLING == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN: {shown(sizes)} must be [smallest, largest] for "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'."
        )
    is_share = node.CROP.TYPE.startswith("relative")
    for size in node.CROP.SIZE:
        if (size > 1) if is_share else (size != int(size)):
            wanted = "shares up to 1" if is_share else "whole numbers of pixels"
            raise InputError(
                f"INPUT.CROP.SIZE: {shown(node.CROP.SIZE)} must be {wanted} for INPUT.CROP.TYPE "
                f"'{node.CROP.TYPE}'."
            )
    if node.CROP.TYPE == "absolute_range" and node.CROP.SIZE[0] > node.CROP.SIZE[1]:
        raise InputError(f"INPUT.CROP.SIZE: {shown(node.CROP.SIZE)} must be [smallest, largest].")


def _check_groups(model: CfgNode) -> None:
    """Refuse numbers of channels that GN cannot divide into its groups."""
    channels = {"SIMPLE_PYRAMID": "OUT_CHANNELS", "FPN": "OUT_CHANNELS"}
    channels |= {"ROI_BOX_HEAD": "CONV_DIM", "ROI_MASK_HEAD": "CONV_DIM"}
    for node, key in channels.items():
        if model[node].NORM == "GN" and model[node][key] % GROUPS_OF_GN:
            raise InputError(
                f"MODEL.{node}.{key}: {model[node][key]} is no multiple of the {GROUPS_OF_GN} "
                f"groups of MODEL.{node}.NORM GN."
            )
