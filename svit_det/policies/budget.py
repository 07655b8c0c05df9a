"""KeepBudget: decisions at inference that spend a given budget, by statistics of the training.

G gates, B images, N patch tokens; a margin is the log odds that a gate gives a token to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.policies.base import Mean, of_this_process
from svit_det.policies.keep_schedule import with_mean
from svit_det.policies.ranking import keep_upper

NUM_LEVELS = 129
"""Points of the tracked quantile curve of each gate's margins."""
MOMENTUM = 0.1
"""Weight of a training step in the tracked curves. The first 1 / MOMENTUM steps get a plain mean.
Early in a training the margins drift by more than they differ from each other. A longer memory
would then describe weights that no longer decide."""
BAND = 0.03
"""Under a budget the share that a gate keeps of an image stays within BAND of the gate's share.
BAND is small enough to hold a budget, and as large as the difference between images of a set."""


class KeepBudget(nn.Module):
    """Per gate: the share of tokens kept in training and the distribution of its margins.

    A threshold is the quantile of the margins above which the wanted share lies. Another budget
    means other shares, read off the same curve: the shares of all gates are raised to one common
    power, so that their mean is the budget. A power keeps the shares in (0, 1] and in order.

    A threshold alone meets its share only on images like those of the training. Under a budget
    `decide` therefore pulls each image towards the gate's share s: where the threshold would keep
    the share s + d of an image, `decide` keeps s + d BAND / (BAND + |d|). This share is nearly
    s + d for small d, and always within BAND of s. It depends on no other image.

    `follow` replaces the training's distribution by that of recent images, for streams of images
    unlike the training's. Decisions then depend on earlier images; therefore nothing calls `follow`
    unless a user asks for it. The recent distribution is not saved; `forget` undoes `follow`.

    `nested`: each gate chooses among the tokens that the gate before has kept, and its tracked
    share is a share of these tokens. `targets` and budgets are shares of all tokens even then.
    """

    num_batches_tracked: Tensor
    kept_share: Tensor
    margin_quantiles: Tensor
    thresholds: Tensor
    num_followed: Tensor
    recent_quantiles: Tensor

    def __init__(self, targets: Sequence[float], *, nested: bool = False) -> None:
        super().__init__()
        num_gates = len(targets)
        self.targets = tuple(targets)
        self.nested = nested
        self.keep_ratio: float | None = None
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("kept_share", torch.tensor(self._of_choices(self.targets)))
        self.register_buffer("margin_quantiles", torch.zeros(num_gates, NUM_LEVELS))
        # Derived from the three buffers above. Before any training the thresholds are 0: a token is
        # kept where keeping is the more probable.
        self.register_buffer("thresholds", torch.zeros(num_gates), persistent=False)
        self.register_buffer("num_followed", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer(
            "recent_quantiles", torch.zeros(num_gates, NUM_LEVELS), persistent=False
        )
        self._wanted = self.targets
        self.register_load_state_dict_post_hook(_refresh)

    @torch.no_grad()
    def track(
        self, margins: Sequence[Tensor], keeps: Sequence[Tensor], mean: Mean = of_this_process
    ) -> None:
        """Take in one training step: per gate the (B, N) margins and decisions.

        A margin of -inf says that the token was no candidate. A step does not count if some gate
        had nothing to choose from in some process.
        """
        choices = [margin.isfinite() for margin in margins]
        all_chose = torch.stack([choice.any() for choice in choices]).all()
        # All processes leave together: if one left alone, the others would wait for it forever.
        if mean(all_chose.float()) < 1:
            return
        levels = torch.linspace(0, 1, NUM_LEVELS, device=self.kept_share.device)
        shares, curves = [], []
        passing, trained = choices[0], self._quantiles(self.kept_share)
        for gate, (margin, keep, choice) in enumerate(zip(margins, keeps, choices, strict=True)):
            shares.append(keep[choice].float().mean())
            among = choice
            if self.nested:
                # The draws of training keep some tokens that the thresholds of earlier gates would
                # not keep.
                among = choice & passing
                among = torch.where(among.any(), among, choice)
                passing = among & (margin > trained[gate])
            curves.append(torch.quantile(margin[among].float(), levels))
        self.num_batches_tracked += 1
        weight = self.num_batches_tracked.reciprocal().clamp(min=MOMENTUM)
        self.kept_share.lerp_(mean(torch.stack(shares)), weight)
        self.margin_quantiles.lerp_(mean(torch.stack(curves)), weight)
        self.refresh()

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Aim at the mean share `ratio` over the gates; None: at the shares that training kept."""
        self.keep_ratio = ratio
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive the thresholds anew from the tracked curves and the budget."""
        shares = self.kept_share
        if self.keep_ratio is not None:
            of_all = shares.cumprod(0) if self.nested else shares
            self._wanted = with_mean(of_all.tolist(), self.keep_ratio)
            shares = shares.new_tensor(self._of_choices(self._wanted))
        self.thresholds.copy_(self._quantiles(shares))

    def decide(self, gate: int, margin: Tensor, *, as_trained: bool = False) -> Tensor:
        """(B, N) margins, -inf for no choice -> (B, N) bool, by the threshold and the budget.

        as_trained: as if no budget were set.
        """
        if as_trained and self.keep_ratio is not None:
            return margin > self._quantiles(self.kept_share)[gate]
        above = margin > self.thresholds[gate]
        if self.keep_ratio is None:
            return above
        share = self._wanted[gate]
        off = above.float().mean(dim=1) - share
        off = off * (BAND / (BAND + off.abs()))
        counts = ((share + off) * margin.shape[1]).round().long().clamp(min=1)
        return keep_upper(margin, counts)

    @torch.no_grad()
    def follow(self, margins: Sequence[Tensor]) -> None:
        """Take in one pass at inference: per gate the (B, N) margins, -inf for no choice.

        A pass in which some gate had nothing to choose from does not count.
        """
        choices = [margin.isfinite() for margin in margins]
        if not all(choice.any() for choice in choices):
            return
        levels = torch.linspace(0, 1, NUM_LEVELS, device=self.kept_share.device)
        curves = [
            torch.quantile(margin[choice].float(), levels)
            for margin, choice in zip(margins, choices, strict=True)
        ]
        self.num_followed += 1
        weight = self.num_followed.reciprocal().clamp(min=MOMENTUM)
        self.recent_quantiles.lerp_(torch.stack(curves), weight)
        self.refresh()

    def forget(self) -> None:
        """Return to the training's distribution."""
        self.num_followed.zero_()
        self.refresh()

    def _quantiles(self, shares: Tensor) -> Tensor:
        """(G,) the margin of each gate above which its share lies, in training or recent images."""
        curves = torch.where(self.num_followed > 0, self.recent_quantiles, self.margin_quantiles)
        position = (1 - shares) * (NUM_LEVELS - 1)
        below = position.floor().long().clamp(0, NUM_LEVELS - 2)
        low = curves.gather(1, below.unsqueeze(1)).squeeze(1)
        high = curves.gather(1, below.unsqueeze(1) + 1).squeeze(1)
        return torch.lerp(low, high, position - below)

    def _of_choices(self, shares: Sequence[float]) -> list[float]:
        """Shares of all tokens -> shares of the tokens that each gate chooses among."""
        if not self.nested:
            return list(shares)
        return [share / before for before, share in zip((1.0, *shares), shares)]


def _refresh(module: KeepBudget, _: Any) -> None:
    module.refresh()
