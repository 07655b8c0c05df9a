"""The recipe's optimiser: AdamW, without weight decay for the recipe's exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, build_lr_scheduler
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from svit_det.detection.keys import SolverKeys
from svit_det.errors import InputError
from svit_det.training.groups import named_from, parameter_groups
from svit_det.vit import TokenNet

NO_WEIGHT_DECAY: tuple[str, ...] = SolverKeys.defaults()["no_weight_decay"]
BEFORE_THE_END = 1e-5
"""Share of a training; detectron2 rounds shares of a training to 1e-6."""


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


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """detectron2's schedule that `SOLVER.LR_SCHEDULER_NAME` names.

    When a training ends, detectron2 asks for the rate of the step behind the last one. Its
    WarmupStepWithFixedGammaLR has no rate there, and would end the training without its last
    checkpoint; here the schedule goes on with its last rate.
    """
    schedule = build_lr_scheduler(cfg, optimizer)
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        inner: Callable[[float], float] = schedule._multiplier
        schedule._multiplier = lambda share: inner(min(share, 1 - BEFORE_THE_END))
    return schedule


def _factors(model: nn.Module) -> dict[str, float]:
    """The rate factors of the policies of all networks in `model`, by names in the model."""
    factors = {}
    for name, module in model.named_modules():
        if isinstance(module, TokenNet):
            factors |= named_from(name, module.trunk.policy.rate_factors())
    return factors
