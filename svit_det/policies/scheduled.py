"""ScheduledPolicy: the common part of policies with a keep schedule and a budget. Survivors: notes.

B images, N patch tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from svit_det.policies.base import BlockView, TokenPolicy
from svit_det.policies.keep_schedule import KeepSchedule, check_budget
from svit_det.tokens import Selection, TokenState, everyone

BACKBONE = ("trunk.blocks", "trunk.patch_embed", "trunk.pos_embed")
"""The parts that a recipe freezes with the backbone, named as in `TokenPolicy.frozen`."""


class ScheduledPolicy(TokenPolicy):
    """Holds a schedule for training, and another one for inference where a budget is set."""

    def __init__(self, *, schedule: KeepSchedule) -> None:
        super().__init__()
        self._trained = self._tested = schedule
        self._keep_ratio: float | None = None

    @property
    def schedule(self) -> KeepSchedule:
        """Which blocks decide in this mode, and their shares."""
        return self._trained if self.training else self._tested

    @property
    def keep_ratio(self) -> float | None:
        """The budget that was set; None: as trained."""
        return self._keep_ratio

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Run a trained model at another mean share over the deciding blocks; None: as trained."""
        check_budget(ratio)
        self._keep_ratio = ratio
        self._tested = self._trained.with_mean(ratio)


@dataclass(frozen=True)
class Survivors:
    """The notes of a policy that drops tokens for good."""

    keep: Tensor
    """(B, N) bool, patch tokens that no block has dropped."""
    total: int | None = None
    """Rows of every image, extra tokens among them; None: the number depends on the data."""
    gate: Tensor | None = None
    """(B, N) the product of the gates so far, in a training with gates."""


def survivors(view: BlockView, state: TokenState, notes: Survivors | None) -> Selection:
    """The candidates that no block has dropped; without notes, all candidates."""
    if notes is None:
        return everyone(state) if view.candidates is None else Selection(keep=view.candidates)
    if view.candidates is None:
        return Selection(keep=notes.keep, total=notes.total, gate=notes.gate)
    gate = None if notes.gate is None else notes.gate * view.candidates
    return Selection(keep=notes.keep & view.candidates, gate=gate)
