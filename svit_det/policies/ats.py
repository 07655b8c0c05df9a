"""ATS: tokens are sampled by the inverse of their scores' distribution; easy images keep fewer.

Source: Fayyaz et al., "Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022,
section 3, and the released code. The policy has no parameters. A trained dense model therefore runs
under it without training, and better after fine-tuning.

B images, N patch tokens.

Departures from the paper and its code, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch token that is dropped keeps the value that it entered the block with, because its row is
  never computed. The paper discards it.
- The number of sampling points of a block is a share of the image's tokens. The released code has
  as many points as tokens in all blocks, and fails with fewer points than tokens.
- The nearest value of the distribution is found by bisection instead of comparing all with all.
  Ties go to the lower value, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.policies.base import BlockView, ScheduleConfig, TrunkShape
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import ScheduledPolicy, Survivors, survivors
from svit_det.tokens import Selection, TokenState

MIN_POINTS = 7
"""The released code asks for at least eight tokens, the class token among them."""


@POLICY_REGISTRY.register()
class ATS(ScheduledPolicy):
    """A token's score is the class token's attention to it times the norm of its value.

    A block of the schedule samples at (its share) x N points. Several points may fall on one token,
    so the number kept varies by image and is at most the number of points. The weakest token is
    always dropped. A token that is dropped still serves as key and value in this block, but gets no
    output. The policy's own schedule: blocks 3 to 11, with shares of .7, .49 and .343 for three
    blocks each.
    """

    needs_class_token = True
    always_skips = True
    Notes = Survivors

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """The shared keys."""

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        super().__init__(schedule=config.schedule(shape.depth))
        self.set_keep_ratio(config.test_keep_ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that were never dropped."""
        return state, survivors(view, state, self.recall(state))

    def before_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Sample the tokens that go on to the attention and the MLP."""
        if view.layer not in self.schedule:
            return state, selection
        # The paper sums over several heads; a mean would give the same order.
        attention = view.class_attention().weights.detach().sum(dim=1)
        score = attention * view.value_norms().detach()
        num_points = round(self.schedule.share(view.layer) * state.num_patches)
        keep = inverse_transform_sample(score, selection.keep, max(num_points, MIN_POINTS))
        gate = None if selection.gate is None else selection.gate * keep
        chosen = replace(selection, keep=keep, total=None, gate=gate, score=score)
        return self.remember(state, Survivors(keep)), chosen


def inverse_transform_sample(score: Tensor, among: Tensor, num_points: int) -> Tensor:
    """(B, N) scores, candidates `among` (B, N) bool -> (B, N) bool: the tokens that were sampled.

    F is the cumulative distribution over the scores in ascending order; it is 0 at the weakest
    token and 1 at the strongest. `num_points` points are spread evenly from the first value of F
    above 0 to 1, and each point picks the token whose F is nearest. F is not formed: the same
    comparisons are made between sums of scores. Where F could not be formed (a single token, or
    scores that are all 0) all of `among` are kept.
    """
    # In double precision on every device: thousands of rounding errors add up.
    ascending, order = score.double().masked_fill(~among, float("inf")).sort(dim=1, stable=True)
    ascending = ascending.nan_to_num(posinf=0.0)
    total = ascending.cumsum(dim=1)
    lowest, highest = total[:, :1], total[:, -1:]
    start = torch.where(total > lowest, total, highest).amin(dim=1, keepdim=True)
    steps = torch.linspace(0, 1, num_points, dtype=total.dtype, device=total.device)
    between = torch.add(total[:, :-1], ascending[:, 1:], alpha=0.5)
    nearest = torch.searchsorted(between, torch.lerp(start, highest, steps))
    sampled = torch.zeros_like(among).scatter_(1, order.gather(1, nearest), True)
    return torch.where(highest == lowest, among, sampled)
