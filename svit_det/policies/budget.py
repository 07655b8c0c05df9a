"""KeepBudget: from what training saw to the thresholds that spend a given budget at inference.

G gates; a margin is the log odds that a gate gives a token to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.policies.base import Mean, of_this_process
from svit_det.policies.keep_schedule import with_mean

NUM_LEVELS = 129
"""Points of the tracked quantile curve of each gate's margins."""
MOMENTUM = 0.01
"""Weight of a step once there were 1 / MOMENTUM of them; before that, a plain mean."""


class KeepBudget(nn.Module):
    """Per gate: the share of tokens kept in training and the distribution of its margins.

    A threshold is the quantile of the margins above which the wanted share lies. Another budget is
    another share, read off the same curve: the shares of all gates are raised to one common power,
    which keeps them in (0, 1] and in order, so that their mean is the wanted one.
    """

    num_batches_tracked: Tensor
    kept_share: Tensor
    margin_quantiles: Tensor
    thresholds: Tensor

    def __init__(self, targets: Sequence[float]) -> None:
        super().__init__()
        num_gates = len(targets)
        self.targets = tuple(targets)
        self.keep_ratio: float | None = None
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("kept_share", torch.tensor(self.targets))
        self.register_buffer("margin_quantiles", torch.zeros(num_gates, NUM_LEVELS))
        # Derived from the other three. Before any training they are 0: keep the more probable.
        self.register_buffer("thresholds", torch.zeros(num_gates), persistent=False)
        self.register_load_state_dict_post_hook(_refresh)

    @torch.no_grad()
    def track(
        self, margins: Sequence[Tensor], keeps: Sequence[Tensor], mean: Mean = of_this_process
    ) -> None:
        """Take in one training step: per gate the (B, N) margins and decisions.

        A margin of -inf says that the token was not up for choice. A step in which some gate had
        nothing to choose from, in any process, does not count.
        """
        choices = [margin.isfinite() for margin in margins]
        all_chose = torch.stack([choice.any() for choice in choices]).all()
        # Asked of all processes: one that left alone would let the others wait for it forever.
        if mean(all_chose.float()) < 1:
            return
        levels = torch.linspace(0, 1, NUM_LEVELS, device=self.kept_share.device)
        shares, curves = [], []
        for margin, keep, choice in zip(margins, keeps, choices, strict=True):
            shares.append(keep[choice].float().mean())
            curves.append(torch.quantile(margin[choice].float(), levels))
        self.num_batches_tracked += 1
        weight = self.num_batches_tracked.reciprocal().clamp(min=MOMENTUM)
        self.kept_share.lerp_(mean(torch.stack(shares)), weight)
        self.margin_quantiles.lerp_(mean(torch.stack(curves)), weight)
        self.refresh()

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Aim at the mean share `ratio` over the gates; None: at what training saw."""
        self.keep_ratio = ratio
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive the thresholds anew from what was tracked and the wanted budget."""
        shares = self.kept_share
        if self.keep_ratio is not None:
            shares = shares.new_tensor(with_mean(shares.tolist(), self.keep_ratio))
        position = (1 - shares) * (NUM_LEVELS - 1)
        below = position.floor().long().clamp(0, NUM_LEVELS - 2)
        low = self.margin_quantiles.gather(1, below.unsqueeze(1)).squeeze(1)
        high = self.margin_quantiles.gather(1, below.unsqueeze(1) + 1).squeeze(1)
        self.thresholds.copy_(torch.lerp(low, high, position - below))


def _refresh(module: KeepBudget, _: Any) -> None:
    module.refresh()
