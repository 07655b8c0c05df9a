"""The loop over training steps, and inner trainers that stop where a loss is not finite."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from detectron2.engine import AMPTrainer, SimpleTrainer, TrainerBase, hooks
from detectron2.utils.events import EventStorage
from torch import Tensor

from svit_det.interrupts import stop_if_asked
from svit_det.training.finite import check_losses, diverged


def run_steps(trainer: TrainerBase, start: int, stop: int) -> None:
    """detectron2's loop, without a traceback in the log and an evaluation after a failure.

    A training that fails or is interrupted writes the rest of its log and ends at once.
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
            with suppress(Exception):  # only the error that ended the training is reported
                hook.after_train()


class _StopsWhereNotFinite:
    """A mixin that checks the losses before the optimiser uses their gradients."""

    iter: int

    def run_step(self) -> None:
        """detectron2's step. Its own check of proposals comes before there are losses."""
        try:
            super().run_step()  # type: ignore[misc]
        except FloatingPointError as error:
            raise diverged("boxes or scores of proposals are not finite", step=self.iter) from error

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        check_losses(loss_dict, step=self.iter)
        super()._write_metrics(loss_dict, *args, **kwargs)  # type: ignore[misc]


class PlainSteps(_StopsWhereNotFinite, SimpleTrainer):
    """Training steps in float32; the trunk itself may use bfloat16."""


class MixedSteps(_StopsWhereNotFinite, AMPTrainer):
    """Training steps in CUDA's mixed precision, where a gradient overflow only skips a step."""
