"""The recipe of a training: optimiser, schedule, averaged weights, frozen parts, clocks."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3

from svit_det.classification.model import TokenClassifier
from svit_det.errors import InputError, renamed_settings
from svit_det.training.groups import begins_with, parameter_groups

BESIDE_THE_BLOCKS = ("trunk.cls_token", "norm", "head")
"""These parts stand still whenever a policy's recipe lets the trunk's blocks stand still."""


def learning_rate(solver: Any) -> float:
    """BASE_LR times BATCH_SIZE / RATE_BATCH; BASE_LR itself where RATE_BATCH is 0."""
    scale = solver.BATCH_SIZE / solver.RATE_BATCH if solver.RATE_BATCH else 1.0
    return float(solver.BASE_LR * scale)


def build_optimizer(solver: Any, model: TokenClassifier) -> torch.optim.Optimizer:
    """AdamW. The policy's rate factors become timm's `lr_scale`, so that a warm-up keeps them."""
    rate = learning_rate(solver)
    groups = parameter_groups(
        model,
        rate=rate,
        weight_decay=solver.WEIGHT_DECAY,
        no_weight_decay=solver.NO_WEIGHT_DECAY,
        rate_factors=model.trunk.policy.rate_factors(),
    )
    for group in groups:
        group["lr_scale"] = group.pop("lr", rate) / rate
        group["lr"] = rate
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)


def build_schedule(
    solver: Any, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> CosineLRScheduler:
    """timm's cosine after a linear warm-up, stepped by epoch as in DeiT, or by step.

    Call the schedule's `step` with the result of `schedule_time`.
    """
    unit = steps_per_epoch if solver.LR_BY_STEP else 1
    return CosineLRScheduler(
        optimizer,
        t_initial=solver.EPOCHS * unit,
        lr_min=solver.MIN_LR,
        warmup_t=solver.WARMUP_EPOCHS * unit,
        warmup_lr_init=solver.WARMUP_LR,
    )


def schedule_time(solver: Any, step: int, steps_per_epoch: int) -> int:
    """The schedule's time at a step of the whole training."""
    return step if solver.LR_BY_STEP else step // steps_per_epoch


def build_ema(solver: Any, model: TokenClassifier) -> ModelEmaV3 | None:
    """The averaged weights; a policy's statistics are copied, not averaged."""
    if not solver.EMA_DECAY:
        return None
    return ModelEmaV3(model, decay=solver.EMA_DECAY, exclude_buffers=True)


def frozen_at(solver: Any, model: TokenClassifier, step: int, steps: int) -> Collection[str]:
    """The parts that stand still at a step of the policy's clock, and those of SOLVER.FROZEN."""
    parts = {*model.trunk.policy.frozen(step, steps)}
    if "trunk.blocks" in parts:
        parts |= {*BESIDE_THE_BLOCKS}
        if model.class_head is not None:
            parts |= {"class_norm", "class_head"}
    return sorted(parts | {*solver.FROZEN})


def freeze_for_good(solver: Any, model: TokenClassifier) -> None:
    """Take the parameters of SOLVER.FROZEN out of the training, so that they cost no gradient.

    Raises InputError for a name that no parameter begins with.
    """
    named = dict(model.named_parameters())
    with renamed_settings(lambda _: "SOLVER.FROZEN"):
        for part in solver.FROZEN:
            members = [named[name] for name in named if begins_with(name, part)]
            if not members:
                raise InputError(f"no parameter begins with {part}.", setting="frozen")
            for parameter in members:
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in named.values()):
            raise InputError("nothing is left to train; remove a part.", setting="frozen")


def policy_time(solver: Any, step: int, steps_per_epoch: int) -> int:
    """The step on the policy's clock, which may count another number of steps per epoch.

    A recipe may say 6,255 steps for 5 epochs of 1,251 steps each. With POLICY_STEPS_PER_EPOCH 1,251
    these are 5 epochs of a training set of any size.
    """
    pace = solver.POLICY_STEPS_PER_EPOCH or steps_per_epoch
    return math.floor(step * pace / steps_per_epoch + 1e-9)
