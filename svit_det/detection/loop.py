"""The loop over training steps, and the inner trainer that stops where a loss is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from detectron2.engine import AMPTrainer, SimpleTrainer, TrainerBase, hooks
from detectron2.utils.events import EventStorage
from torch import Tensor

from svit_det.detection.interrupts import stop_if_asked
from svit_det.errors import InputError
from svit_det.training.finite import some_of


def run_steps(trainer: TrainerBase, start: int, stop: int) -> None:
    """detectron2's loop without its traceback in the log and its evaluation after a failure.

    A training that fails or is interrupted writes what its log still had and ends at once.
    """
    logging.getLogger("detectron2.engine").info("Starting training from iteration %d", start)
    trainer.iter = trainer.start_iter = start
    trainer.max_iter = stop
    with EventStorage(start) as trainer.storage:
        try:
            trainer.before_train()
            for trainer.iter in range(start, stop):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                stop_if_asked()
        except BaseException:
            _close_writers(trainer)
            raise
        trainer.iter = stop
        trainer.after_train()


def _close_writers(trainer: TrainerBase) -> None:
    for hook in trainer._hooks:
        if isinstance(hook, hooks.PeriodicWriter):
            with suppress(Exception):  # what ended the training is told; a full disk once is enough
                hook.after_train()


class _StopsWhereNotFinite:
    """Mixin: looks at the losses before the optimiser uses their gradients."""

    iter: int

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        bad = [
            f"{name} is {value.detach().item()}"
            for name, value in loss_dict.items()
            if not math.isfinite(value.detach().item())
        ]
        if bad:
            raise InputError(
                f"Step {self.iter} of the training: {some_of(bad)}; its weights were not changed "
                "and its last checkpoint stays. Look at the data, or lower SOLVER.BASE_LR."
            )
        super()._write_metrics(loss_dict, *args, **kwargs)  # type: ignore[misc]


class PlainSteps(_StopsWhereNotFinite, SimpleTrainer):
    """In float32, or in bfloat16 by the trunk itself."""


class MixedSteps(_StopsWhereNotFinite, AMPTrainer):
    """In CUDA's mixed precision, where an overflowing gradient only skips a step."""
