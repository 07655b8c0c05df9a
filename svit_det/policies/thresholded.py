"""ThresholdedPolicy: the common part of policies with gates whose thresholds training tracks.

B images, N patch tokens; a margin is the log odds that a gate gives a token to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import Mean, of_this_process
from svit_det.policies.budget import KeepBudget
from svit_det.policies.scheduled import ScheduledPolicy
from svit_det.tokens import PassRecord


class ThresholdedPolicy(ScheduledPolicy):
    """One gate for each of the schedule's blocks; the gate's margins are the selection's scores.

    A policy sets `mode` and `budget` (one threshold for each gate) in its own constructor.
    """

    budget_modes: ClassVar[tuple[str, ...]] = ("threshold",)
    """The modes of inference that can spend another budget."""
    mode: str
    budget: KeepBudget

    def above_threshold(self, layer: int, margin: Tensor) -> Tensor:
        """(B, N) margins, -inf for no choice -> (B, N) bool, the decision of inference.

        In mode `threshold` the tracked threshold of this block's gate decides, and the budget where
        one is set; a training has no budget. In other modes a token is kept where keeping is the
        more probable.
        """
        if self.mode != "threshold":
            return margin > 0
        gate = self._trained.layers.index(layer)
        return self.budget.decide(gate, margin, as_trained=self.training)

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Take in the margins and kept shares that the thresholds are made of."""
        self.budget.track(*choices_of(record, self._trained.layers), mean)

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share over the deciding blocks; None: as trained."""
        check_mode(ratio, self.mode, self.budget_modes)
        super().set_keep_ratio(ratio)
        self.budget.set_keep_ratio(ratio)

    def follow(self, record: PassRecord) -> None:
        """Let the thresholds follow the margins of recent images."""
        self.budget.follow(choices_of(record, self._trained.layers)[0])

    def forget(self) -> None:
        """Back to the thresholds of the training."""
        self.budget.forget()


def choices_of(record: PassRecord, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """(B, N) margins and (B, N) bool decisions of each of `layers`.

    The margins of a block that did not decide are -inf: the block had no candidates.
    """
    selections = [record.blocks[layer].selection for layer in layers]
    margins = [
        torch.full(each.keep.shape, -torch.inf, device=each.keep.device)
        if each.score is None
        else each.score
        for each in selections
    ]
    return margins, [each.keep for each in selections]


def check_mode(ratio: float | None, mode: str, modes: Sequence[str] = ("threshold",)) -> None:
    """Raise InputError for a budget in another mode than `modes`, the modes that can spend it."""
    if ratio is not None and mode not in modes:
        noun = "mode" if len(modes) == 1 else "modes"
        raise InputError(
            f"works in the {noun} {' and '.join(modes)}, not in {mode}: unset it or change the "
            "mode.",
            setting="test_keep_ratio",
        )
