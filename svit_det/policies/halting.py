"""Adaptive computation time for tokens: sums of halting scores, and the prior on where they halt.

Source: A-ViT (Yin et al. 2022), section 3, after Graves, "Adaptive Computation Time for Recurrent
Neural Networks", 2016.

B images, N patch tokens, C channels, L blocks; all sums are kept in float32.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svit_det.errors import InputError

EPS = 0.01
"""A token halts once its halting scores sum to 1 - EPS."""
TINY = 1e-30
"""A floor for sums of scores: below any sum that matters, and far enough above 0 for a gradient in
float32."""


@dataclass(frozen=True)
class Halting:
    """The sums of each token so far in a pass."""

    alive: Tensor
    """(B, N) bool, patch tokens that have not halted."""
    accumulated: Tensor
    """(B, N) c, the sum of a token's halting scores; 1 once it has halted."""
    ponder: Tensor
    """(B, N) rho, the blocks that a token ran through, plus its remainder once it has halted."""
    mixture: Tensor | None
    """(B, N, C) a token's states so far, weighted by their halting scores. None: not asked for."""
    scores: tuple[Tensor, ...] = ()
    """The mean halting score of each block, a scalar."""

    @classmethod
    def beginning(cls, patches: Tensor, *, mixes: bool) -> Halting:
        """Before any block on `patches` (B, N, C): every token is alive, and all sums are 0."""
        zeros = torch.zeros_like(patches[..., 0], dtype=torch.float32)
        mixture = torch.zeros_like(patches, dtype=torch.float32) if mixes else None
        return cls(torch.ones_like(zeros, dtype=torch.bool), zeros, zeros, mixture)

    @property
    def remainder(self) -> Tensor:
        """(B, N) R, the weight that is left for the state in which a token halts."""
        return 1 - self.accumulated

    def after(self, patches: Tensor, score: Tensor, ran: Tensor, *, last: bool) -> Halting:
        """The sums after a block, in which the tokens `ran` (B, N) bool got the states `patches`.

        The weight of a token's state is its halting `score` (B, N), or the token's remainder in the
        state in which it halts. A token that is alive but did not run gets no score. In the `last`
        block such a token halts like any other, and its remainder goes to the state that it has.
        """
        ran = ran & self.alive
        score = torch.where(ran, score.float(), 0.0)
        halts = self.alive if last else ran & (self.accumulated + score >= 1 - EPS)
        weight = torch.where(halts, self.remainder, score)
        mixture = self.mixture
        if mixture is not None:
            mixture = torch.addcmul(mixture, weight.unsqueeze(-1), patches.float())
        return Halting(
            alive=self.alive & ~halts,
            accumulated=torch.where(halts, 1.0, self.accumulated + weight),
            ponder=self.ponder + ran + torch.where(halts, self.remainder, 0.0),
            mixture=mixture,
            scores=(*self.scores, score.mean()),
        )


SHALLOW, NEARLY_NONE = 2.0, 0.05
"""Numbers of blocks: a mean depth below SHALLOW, or less than NEARLY_NONE short of all blocks, is
worth a warning."""


class HaltingWatch:
    """Warns once, in the log, that halting does not work: hardly a token halts, or most at once.

    `gamma` and `beta` belong to the halting score, sigmoid(gamma x - beta).
    """

    def __init__(self, gamma: float, beta: float) -> None:
        self.gamma, self.beta = gamma, beta
        self._warned = False

    def look(self, shares: Tensor) -> None:
        """Look at the (L,) shares of the tokens that ran through each block of a training step."""
        depth = len(shares)
        if self._warned or depth == 1:
            return
        mean = shares.sum().item()
        least, most = min(SHALLOW, depth / 2), depth - NEARLY_NONE
        if least <= mean <= most:
            return
        self._warned = True
        what, change = "most tokens halted at once", "raise"
        if mean > most:
            what, change = "hardly a token halted", "lower"
        logging.getLogger(__name__).warning(
            "In a training step %s (mean depth %.2f of %d blocks). If that lasts, %s "
            "MODEL.TOKEN_POLICY.A_VIT.BETA: a token halts about where its first channel exceeds "
            "BETA / GAMMA, which is %g.",
            *(what, mean, depth, change, self.beta / self.gamma),
        )


def prior_target(depth: int, centre: int | None = None) -> Tensor:
    """(L,) a Gaussian of unit variance around block `centre`, whose tail before it sums to .98.

    The scale is computed from a whole tail, so that it is the same in a trunk of any depth.
    `centre` None: two thirds of the depth.
    """
    if centre is None:
        centre = depth * 2 // 3
    if centre >= depth:
        raise InputError(
            f"{centre} lies outside the trunk, whose blocks count from 0 to {depth - 1}; name one "
            "of them, or None for two thirds down.",
            setting="prior_centre",
        )
    tail = sum(math.exp(-(distance**2) / 2) for distance in range(1, 40))
    return (-0.5 * (torch.arange(depth) - centre).square()).exp() * (0.98 / tail)


def prior_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Divergence of the (L,) mean halting scores, as a distribution, from the target; at least 0.

    The unclamped divergence can be negative, because the target does not sum to 1, as in the
    released code. The divergence is divided by L, as "batchmean" does with one vector.
    """
    share = (scores / scores.sum().clamp(min=TINY)).clamp(0.01, 0.99)
    return F.kl_div(share.log(), target, reduction="batchmean").clamp(min=0)
