"""One training step: one pass (two where the policy asks for it), all losses, one update.

B images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.classification.model import TokenClassifier
from svit_det.classification.targets import Targets, task_losses
from svit_det.policies import TaskLosses
from svit_det.tokens import PassRecord
from svit_det.training.collectives import mean_over_processes
from svit_det.training.finite import check_losses
from svit_det.training.freezing import Freezing
from svit_det.training.greedy import RandomState, greedy_pass


class TrainingStep:
    """Losses and update of one batch.

    `model` is `net`, or DDP around it; the teacher is frozen.
    """

    def __init__(
        self,
        *,
        solver: Any,
        model: nn.Module,
        net: TokenClassifier,
        optimizer: torch.optim.Optimizer,
        targets: Targets,
        freezing: Freezing,
        teacher: TokenClassifier | None,
        device: torch.device,
    ) -> None:
        self.solver = solver
        self.model = model
        self.net = net
        self.optimizer = optimizer
        self.targets = targets
        self.freezing = freezing
        self.teacher = teacher
        self.device = device
        scales = solver.AMP and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scales)

    def __call__(
        self, images: Tensor, labels: Tensor, *, number: int, time: int, times: int
    ) -> tuple[dict[str, Tensor], PassRecord, dict[str, Tensor | float]]:
        """Update the weights once, at step `number` of the training.

        `time` of `times` is the step on the policy's clock. Returns the losses, the record and the
        policy's metrics of the pass. Raises InputError for a loss that is not finite, before any
        weight changes.
        """
        policy = self.net.trunk.policy
        policy.set_step(time, times)
        images, targets = self.targets(images, labels)
        drawn = RandomState.now() if policy.needs_greedy_pass else None
        with self._precision():
            outputs, record = self.model(images)
            taught, teaching = None, None
            if self.teacher is not None:
                with torch.no_grad():
                    taught, teaching = self.teacher(images)
        task = self._task(outputs, targets, taught)
        if drawn is not None:
            task = self._with_greedy(task, images, targets, drawn)
        if teaching is not None:
            task = replace(task, teacher=teaching)
        losses = {**task.named, **policy.losses(record, task)}
        self._update(losses, number, time)
        with torch.no_grad():
            told = policy.metrics(record, task)
            policy.track(record, mean_over_processes)
        return {name: value.detach() for name, value in losses.items()}, record, dict(told)

    def _precision(self) -> torch.autocast:
        kind = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=kind, enabled=self.solver.AMP)

    def _task(
        self, outputs: Mapping[str, Tensor], targets: Tensor, taught: Mapping[str, Tensor] | None
    ) -> TaskLosses:
        weight = self.solver.LOGIT_DISTILL_WEIGHT
        return task_losses(outputs, targets, teacher=taught, teacher_weight=weight)

    def _with_greedy(
        self, task: TaskLosses, images: Tensor, targets: Tensor, drawn: RandomState
    ) -> TaskLosses:
        """`task` with the losses and the record of a second pass that decides as at inference."""
        policy = self.net.trunk.policy
        with self._precision():
            outputs, record = greedy_pass(self.net, policy, lambda: self.net(images), random=drawn)
        own = self._task(outputs, targets, None)
        return replace(task, greedy=replace(own, record=record))

    def _update(self, losses: Mapping[str, Tensor], number: int, time: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(torch.stack([*losses.values()]).sum()).backward()
        # After the backward pass: to ask earlier would keep a GPU waiting for its next work.
        check_losses(losses, step=number)
        self.freezing.clear_gradients(time)
        if self.solver.CLIP_NORM:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.solver.CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
