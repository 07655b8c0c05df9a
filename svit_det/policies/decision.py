"""Decision: one kind of choice that AdaViT makes before its blocks. PartMargins: its notes.

Source: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", CVPR
2022, and its released code.

B images, C channels, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.policies.base import Mean
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import exact, log_odds, logistic_noise, straight_through

TAU = 5.0
"""The temperature of training."""


class Decision(nn.Module):
    """A linear layer for each block, and the rule by which its logit means yes.

    In training the rule is sigmoid((logit + noise) / TAU) > `above`. The margin is the logit less
    TAU logit(above), so that it is the log odds of a yes in training. At the start the margin does
    not depend on the input, and makes a yes as likely as the mean of `targets`.

    At inference the margin must exceed a threshold that training tracks: one for each block, or one
    for all blocks where `targets` has a single entry. With `released`, the sigmoid of the logit
    must exceed `above` instead, whatever training saw.
    """

    def __init__(
        self,
        layers: Sequence[int],
        channels: int,
        choices: int,
        *,
        above: float,
        targets: Sequence[float],
        released: bool,
    ) -> None:
        super().__init__()
        self.above = above
        self.shift = TAU * log_odds(above)
        self.fixed = log_odds(above) - self.shift if released else None
        self.gates = {layer: at % len(targets) for at, layer in enumerate(layers)}
        self.linears = nn.ModuleDict({str(layer): nn.Linear(channels, choices) for layer in layers})
        self.budget = KeepBudget(targets)
        start = log_odds(min(self.target, 0.99)) + self.shift
        for layer in layers:
            nn.init.zeros_(self._linear(layer).weight)
            nn.init.constant_(self._linear(layer).bias, start)

    @property
    def target(self) -> float:
        """The mean target over all blocks."""
        return sum(self.budget.targets) / len(self.budget.targets)

    def margin(self, layer: int, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., choices) margins, in float32 because decisions depend on them."""
        with exact(tokens):
            linear = self._linear(layer)
            return linear(tokens.to(linear.weight.dtype)).float() - self.shift

    def choose(self, layer: int, margin: Tensor) -> tuple[Tensor, Tensor | None]:
        """(yes as bool, None); in training (a random yes as bool, its straight-through gate)."""
        if self.training:
            logit = margin + self.shift
            noise = logistic_noise(logit)
            return straight_through(logit, noise, temperature=TAU, above=self.above)
        if self.fixed is not None:
            return margin > self.fixed, None
        return self.budget.decide(self.gates[layer], margin), None

    def track(self, margins: Sequence[Tensor], chosen: Sequence[Tensor], mean: Mean) -> None:
        """Take in one training step: (B, n) margins and choices of each block.

        A margin of -inf marks what was no candidate.
        """
        if len(self.budget.targets) == 1:
            margins, chosen = ([torch.cat([*each], dim=1)] for each in (margins, chosen))
        self.budget.track(margins, chosen, mean)

    def macs(self, layer: int, num_tokens: int) -> int:
        """Multiply-adds of one block's decisions."""
        return num_tokens * self._linear(layer).weight.numel()

    def _linear(self, layer: int) -> nn.Linear:
        return cast(nn.Linear, self.linears[str(layer)])


@dataclass(frozen=True)
class PartMargins:
    """AdaViT's notes in training: the margins of the blocks so far."""

    heads: tuple[Tensor, ...] = ()
    """(B, h) each."""
    layers: tuple[Tensor, ...] = ()
    """(B, 2) each: attention, MLP."""
