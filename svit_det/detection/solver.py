"""The recipe's optimiser: AdamW, with no weight decay where the recipe says so."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from svit_det.errors import InputError


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict]:
    """Two groups of trainable parameters: with weight decay and without.

    Without: the full name contains one of `SOLVER.NO_WEIGHT_DECAY`, a plain substring, as in the
    original's recipe.
    """
    spared, decayed = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_spared = any(word in name for word in cfg.SOLVER.NO_WEIGHT_DECAY)
            (spared if is_spared else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": cfg.SOLVER.WEIGHT_DECAY},
        {"params": spared, "weight_decay": 0.0},
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW at `SOLVER.BASE_LR`, or detectron2's SGD where `SOLVER.OPTIMIZER` says so."""
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        raise InputError(f"SOLVER.OPTIMIZER: no '{cfg.SOLVER.OPTIMIZER}'; choose ADAMW or SGD.")
    optimizer_class = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return optimizer_class(parameter_groups(model, cfg), lr=cfg.SOLVER.BASE_LR)
