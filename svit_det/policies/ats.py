"""ATS: tokens are sampled by the inverse of their scores' distribution; easy images keep fewer.

Source: Fayyaz et al., "Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022,
section 3, and the released code. It has no parameters, so it runs on a trained dense model as it
is, and better after fine-tuning.

B images, N patch tokens, n of them alive.

Departures from the paper and its code, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch that is dropped keeps the value that it entered the block with, for its row is never
  computed, and stays out of all later blocks. The paper discards it.
- Each block's grid has a share of the image's tokens as its number of points. The released code has
  as many points as tokens in all blocks, and fails with fewer than are present.
- The nearest point of the distribution is found by bisection instead of comparing all with all;
  ties go to the lower one, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy, survivors
from svit_det.policies.keep_schedule import (
    LAST_NINE,
    THREE_STEPS,
    check_schedule,
    check_test_keep_ratio,
    with_mean,
)
from svit_det.tokens import ClassAttention, Selection, TokenState

MIN_POINTS = 7
"""The released code asks for at least eight tokens, the class token among them."""


@POLICY_REGISTRY.register()
class ATS(TokenPolicy):
    """In each of `layers`, a patch's score is the class token's attention times its value's norm.

    The grid of block l has `keep_ratios[l]` N points; as several may fall on one token, that is an
    upper bound of the number kept, which varies by image. The weakest token is always dropped. The
    dropped still answer as keys in this block, but their own rows are not computed.
    """

    needs_class_token = True

    def __init__(
        self,
        *,
        depth: int,
        layers: Sequence[int] = LAST_NINE,
        keep_ratios: Sequence[float] = THREE_STEPS,
        test_keep_ratio: float | None = None,
    ) -> None:
        super().__init__()
        check_schedule(layers, keep_ratios, depth)
        self.layers = tuple(layers)
        self.keep_ratios = tuple(keep_ratios)
        self.score_layers = frozenset(layers)
        self.set_keep_ratio(test_keep_ratio)

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> ATS:
        """Build from the node `MODEL.TOKEN_POLICY`."""
        return cls(
            depth=depth,
            layers=cfg.LAYERS or LAST_NINE,
            keep_ratios=cfg.KEEP_RATIOS or THREE_STEPS,
            test_keep_ratio=cfg.TEST_KEEP_RATIO,
        )

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Run a model with grids of another mean size over `layers`; None: as trained."""
        check_test_keep_ratio(ratio)
        self.test_ratios = with_mean(self.keep_ratios, ratio)

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Those who were never dropped."""
        return state, survivors(state)

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Sample those who go on."""
        # The sum over heads (the paper says so for several); a mean would give the same order.
        score = attention.weights.detach().sum(dim=1) * attention.value_norm.detach()
        shares = self.keep_ratios if self.training else self.test_ratios
        num_points = round(shares[self.layers.index(layer)] * score.shape[1])
        keep = inverse_transform_sample(score, selection.keep, max(num_points, MIN_POINTS))
        gate = None if selection.gate is None else selection.gate * keep
        return replace(entered, memory=keep), Selection(keep=keep, gate=gate, score=score)


def inverse_transform_sample(score: Tensor, among: Tensor, num_points: int) -> Tensor:
    """(B, N) scores, the tokens `among` (B, N) bool -> (B, N) bool: those that were sampled.

    The distribution F over the scores in ascending order runs from 0, at the weakest, to 1. A grid
    of `num_points` from its first value above 0 to 1 picks, at each point, the token whose F is
    nearest. One token alone, and scores that are all 0, stay as they are.
    """
    # In double on every device: thousands of roundings add up.
    ascending, order = score.double().masked_fill(~among, float("inf")).sort(dim=1, stable=True)
    ascending = ascending.masked_fill(ascending == float("inf"), 0)
    total = ascending.cumsum(dim=1)
    lowest, highest = total[:, :1], total[:, -1:]
    undecidable = highest == lowest
    distribution = (total - lowest) / (highest - lowest).masked_fill(undecidable, 1)
    start = distribution.masked_fill(distribution == 0, 1).amin(dim=1, keepdim=True)
    steps = torch.linspace(0, 1, num_points, dtype=start.dtype, device=start.device)
    grid = start + steps * (1 - start)
    between = (distribution[:, 1:] + distribution[:, :-1]) / 2
    nearest = torch.searchsorted(between, grid)
    picked = torch.zeros_like(among).scatter_(1, nearest, True)
    sampled = torch.zeros_like(among).scatter_(1, order, picked)
    return torch.where(undecidable, among, sampled)
