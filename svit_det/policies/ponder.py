"""PonderWeight: what one more block per token costs in the loss, steered to a target depth.

The weight is A-ViT's (Yin et al. 2022, eq. 8); steering the weight to a target is new.

Depth is the mean share of the trunk's blocks that a patch token runs through.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.base import Mean
from svit_det.tokens import PassRecord

LEAST_FACTOR, MOST_FACTOR = 1e-3, 1e3
"""Bounds of the factor by which a target may change the weight over the steps."""
DAMPING = 10.0
"""A step's own excess over the target acts at once, as a factor exp(DAMPING x excess). The depth
reacts late, and a weight that only summed up past excesses would swing past the target."""


class PonderWeight(nn.Module):
    """A weight that rises while tokens run deeper than the target, and falls otherwise.

    Each step multiplies the weight by exp(rate x excess over the target). Without a target the
    weight stays.
    """

    factor: Tensor

    def __init__(self, start: float, *, target_depth: float | None, rate: float) -> None:
        super().__init__()
        if target_depth is not None and start == 0:
            raise InputError(
                "0 stays 0 whatever target_depth multiplies it by; give it a start above 0.",
                setting="ponder_weight",
            )
        self.start, self.target_depth, self.rate = start, target_depth, rate
        self.register_buffer("factor", torch.ones(()))

    def of(self, record: PassRecord, mean: Mean) -> Tensor:
        """The weight in the training step of `record`, a scalar."""
        damping = (DAMPING * self._excess(record, mean)).exp()
        return self.start * self.factor * damping

    @torch.no_grad()
    def track(self, record: PassRecord, mean: Mean) -> None:
        """Steer the later steps' weight to the target."""
        self.factor.mul_((self.rate * self._excess(record, mean)).exp())
        self.factor.clamp_(LEAST_FACTOR, MOST_FACTOR)

    def _excess(self, record: PassRecord, mean: Mean) -> Tensor:
        """The depth less its target; 0 without a target."""
        if self.target_depth is None:
            return torch.zeros_like(self.factor)
        return mean(record.kept_shares().mean()) - self.target_depth
