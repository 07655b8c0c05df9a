"""KeepBudget: from what training saw to the decisions that spend a given budget at inference.

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
"""Weight of a step once there were 1 / MOMENTUM of them; before that, a plain mean. While a
training is young margins drift by more than they are apart, so that a longer memory would be of
other weights than the ones that decide."""
BAND = 0.03
"""Under a budget an image's share of a gate stays nearer than this to the gate's share. Small
enough for a budget to be one, and no smaller than the images of one set differ by."""


class KeepBudget(nn.Module):
    """Per gate: the share of tokens kept in training and the distribution of its margins.

    A threshold is the quantile of the margins above which the wanted share lies. Another budget is
    another share, read off the same curve: the shares of all gates are raised to one common power,
    which keeps them in (0, 1] and in order, so that their mean is the wanted one.

    A threshold meets a share on images like those of the training. Under a budget it therefore has
    no more than a say: where it would keep the share s + d of an image, s + d BAND / (BAND + |d|)
    is kept, which is nearly s + d for small d and always within BAND of s. `decide` does that,
    image by image, without remembering others.

    `follow` takes the distribution of recent images in the place of the training's, for streams of
    other images: decisions then depend on what came before, which is why nothing calls it by
    itself. It is no part of the saved state; `forget` undoes it.

    `nested`: each gate chooses among what the gate before has kept, and its own share is of those;
    `targets` and budgets are of all tokens all the same.
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
        # Derived from the other three. Before any training they are 0: keep the more probable.
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
        passing, trained = choices[0], self._quantiles(self.kept_share)
        for gate, (margin, keep, choice) in enumerate(zip(margins, keeps, choices, strict=True)):
            shares.append(keep[choice].float().mean())
            among = choice
            if self.nested:
                # Chance keeps some tokens that the thresholds of earlier gates would not.
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
        """Aim at the mean share `ratio` over the gates; None: at what training saw."""
        self.keep_ratio = ratio
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive the thresholds anew from what was tracked and the wanted budget."""
        shares = self.kept_share
        if self.keep_ratio is not None:
            of_all = shares.cumprod(0) if self.nested else shares
            self._wanted = with_mean(of_all.tolist(), self.keep_ratio)
            shares = shares.new_tensor(self._of_choices(self._wanted))
        self.thresholds.copy_(self._quantiles(shares))

    def decide(self, gate: int, margin: Tensor) -> Tensor:
        """(B, N) margins, -inf for no choice -> (B, N) bool, by the threshold and the budget."""
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
        """Go by the training's distribution again."""
        self.num_followed.zero_()
        self.refresh()

    def _quantiles(self, shares: Tensor) -> Tensor:
        """(G,) the margins above which these shares lie, in training or in recent images."""
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
