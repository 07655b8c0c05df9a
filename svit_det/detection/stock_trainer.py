"""Refusing detectron2's DefaultTrainer where it would silently train something else."""

from __future__ import annotations

import sys
from types import FrameType

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from svit_det.errors import InputError

INSTEAD = {
    "build_optimizer": "return svit_det.detection.solver.build_optimizer(cfg, model)",
    "build_train_loader": (
        "return build_detection_train_loader(cfg, mapper=TokenDatasetMapper(cfg, True))"
    ),
}
"""Methods of DefaultTrainer that ignore this project's keys, and what a subclass should do."""


def refuse_stock_trainer(cfg: CfgNode) -> None:
    """Raise InputError where a DefaultTrainer builds this model without our optimiser and reader.

    Such a trainer would train with SGD, without INPUT.DETR_CROP and without the reader for every
    image mode, and would not say so. Allowed are a subclass that overrides both methods, and code
    that builds a model without a trainer. This function is called while a network is built, because
    DefaultTrainer calls code of this project at no other place.
    """
    trainer = _trainer_above(sys._getframe(1))
    if trainer is None:
        return
    lost = [
        name
        for name in INSTEAD
        if getattr(type(trainer), name).__func__ is getattr(DefaultTrainer, name).__func__
    ]
    if cfg.SOLVER.OPTIMIZER == "SGD":
        lost = [name for name in lost if name != "build_optimizer"]
    if lost:
        ways = "; ".join(f"{name} by `{INSTEAD[name]}`" for name in lost)
        raise InputError(
            f"{type(trainer).__name__} would train without "
            f"{' and '.join(_loss(name, cfg) for name in lost)}: use "
            f"svit_det.detection.trainer.TokenTrainer, or override {ways}."
        )


def _loss(name: str, cfg: CfgNode) -> str:
    if name == "build_optimizer":
        return f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER} and its groups"
    crop = "INPUT.DETR_CROP and " if cfg.INPUT.DETR_CROP.ENABLED else ""
    return f"{crop}our reader of images"


def _trainer_above(frame: FrameType | None) -> DefaultTrainer | None:
    """The trainer whose constructor is running in a frame above, if there is one."""
    while frame is not None:
        if frame.f_code.co_name == "__init__":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DefaultTrainer):
                return owner
        frame = frame.f_back
    return None
