"""The recipe's optimiser: AdamW, without weight decay for the recipe's exceptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from svit_det.detection.keys import SolverKeys
from svit_det.errors import InputError
from svit_det.training.groups import named_from, parameter_groups
from svit_det.vit import TokenNet

NO_WEIGHT_DECAY: tuple[str, ...] = SolverKeys.defaults()["no_weight_decay"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW at `SOLVER.BASE_LR` times the policy's factors, or detectron2's SGD.

    `SOLVER.OPTIMIZER` chooses.
    """
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        raise InputError(f"SOLVER.OPTIMIZER: no '{cfg.SOLVER.OPTIMIZER}'; choose ADAMW or SGD.")
    solver = cfg.SOLVER
    return build_adamw(
        model,
        rate=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        no_weight_decay=solver.NO_WEIGHT_DECAY,
        kind=maybe_add_gradient_clipping(cfg, torch.optim.AdamW),
    )


def build_adamw(
    model: nn.Module,
    *,
    rate: float,
    weight_decay: float,
    no_weight_decay: Sequence[str] = NO_WEIGHT_DECAY,
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW,
) -> torch.optim.Optimizer:
    """AdamW over the recipe's groups, without a config.

    no_weight_decay: parameters with one of these words in their full name get no weight decay.
    """
    groups = parameter_groups(
        model,
        rate=rate,
        weight_decay=weight_decay,
        no_weight_decay=no_weight_decay,
        rate_factors=_factors(model),
    )
    return kind(groups, lr=rate)


def keep_before_the_end(schedule: LRMultiplier) -> LRMultiplier:
    """The schedule, asked for shares of the training below 1.

    detectron2 asks for the rate of the step behind the last one, at the share 1. Its
    WarmupStepWithFixedGammaLR has no rate there, and would end a training without its last
    checkpoint.
    """
    inner: Callable[[float], float] = schedule._multiplier
    schedule._multiplier = lambda share: inner(min(share, math.nextafter(1.0, 0.0)))
    return schedule


def _factors(model: nn.Module) -> dict[str, float]:
    """The rate factors of the policies of all networks in `model`, by names in the model."""
    factors = {}
    for name, module in model.named_modules():
        if isinstance(module, TokenNet):
            factors |= named_from(name, module.trunk.policy.rate_factors())
    return factors
