"""PredictorPolicy: the common part of policies that drop tokens for good by a scoring network.

Each stage (deciding block) has its own network, which scores the tokens that are left. Source:
DynamicViT (Rao et al., NeurIPS 2021, sections 3.2 to 3.4); SPViT trains in the same way.

B images, N patch tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from svit_det.policies.base import ScheduleConfig, TaskLosses
from svit_det.policies.gating import gates_of, keep_ratio_loss, token_distillation
from svit_det.policies.keep_schedule import KeepSchedule
from svit_det.policies.scheduled import BACKBONE, ScheduledPolicy, Survivors
from svit_det.settings import setting
from svit_det.tokens import PassRecord, Selection


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(ScheduleConfig):
    """The recipe, and the shared keys."""

    ratio_weight: float = setting(
        2.0, "Weight of the loss that holds the kept shares to KEEP_RATIOS.", interval="[0, 1e6]"
    )
    distill_weight: float = setting(
        0.0,
        "Weight of the squared difference between the last tokens that stay and the same tokens "
        "of a frozen dense teacher, which is made from MODEL.WEIGHTS. 0 means no teacher.",
        interval="[0, 1e6]",
    )
    predictor_rate: float = setting(
        1.0,
        "Learning rate of the predictors over SOLVER.BASE_LR, at which the rest of the network "
        "learns. The paper's backbone learns at 0.01 of the predictors' rate.",
        interval="(0, 1e6]",
    )
    frozen_steps: int = setting(
        0,
        "Number of first training steps in which the trunk stands still, except for the policy.",
        interval="[0, 1e9]",
    )


def hidden(selection: Selection) -> Selection:
    """The selection with its gate as soft keys too: no other token attends to a dropped token."""
    return selection if selection.gate is None else replace(selection, soft_keys=selection.gate)


class PredictorPolicy(ScheduledPolicy):
    """Stages that decide by margins, with cumulative gates in training, losses and a recipe."""

    Notes = Survivors

    def __init__(
        self, *, config: PredictorConfig, schedule: KeepSchedule, ratio_per_image: bool
    ) -> None:
        super().__init__(schedule=schedule)
        self.ratio_weight = config.ratio_weight
        self.ratio_per_image = ratio_per_image
        self.distill_weight = config.distill_weight
        self.needs_teacher = config.distill_weight > 0
        self.predictor_rate = config.predictor_rate
        self.frozen_steps = config.frozen_steps

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_keep_ratio`, and with a teacher `loss_distillation` over the tokens that stay."""
        layers, shares = self._trained.layers, self._trained.shares
        gates = gates_of(record, layers)
        ratio = keep_ratio_loss(gates, shares, per_image=self.ratio_per_image, mean=task.mean)
        losses = {"loss_keep_ratio": self.ratio_weight * ratio}
        if task.teacher is not None and self.needs_teacher:
            keep = record.blocks[layers[-1]].selection.keep
            difference = token_distillation(record, task.teacher, keep)
            losses["loss_distillation"] = self.distill_weight * difference
        return losses

    def rate_factors(self) -> Mapping[str, float]:
        """The learning-rate factor of the predictors."""
        return {} if self.predictor_rate == 1 else {"trunk.policy": self.predictor_rate}

    def frozen(self, step: int, steps: int | None = None) -> Collection[str]:
        """The trunk without the policy, during the first steps."""
        return BACKBONE if step < self.frozen_steps else ()
