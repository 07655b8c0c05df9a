"""DynamicViT: before three blocks a small network scores the tokens left, and drops the lowest.

Source: Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
NeurIPS 2021, sections 3.2 to 3.4, and the released code.

B images, N patch tokens, C channels.

Departures from the paper and its code, for dense maps:

- A dropped patch token keeps its last value in the map, in training too, where the decision blends
  the map. The paper discards the token; the wrapper `Forgetful` around this policy does the same.
- Distillation compares the trunk's last tokens before any norm. The paper's term on class logits
  has no counterpart here.
- Later predictors are computed for the dropped tokens too; these results count nowhere.
- The count is the share times N rounded down, after 1e-6 is added against rounding errors: 2,058 of
  4,200 tokens where the released arithmetic finds 2,057.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.policies.base import BlockView, TrunkShape
from svit_det.policies.gating import drop_by_chance
from svit_det.policies.predictor import PredictorConfig, PredictorPolicy, hidden
from svit_det.policies.ranking import keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import Survivors, survivors
from svit_det.policies.scorers import ScorePredictor
from svit_det.settings import setting
from svit_det.tokens import Selection, TokenState

LAYERS = (3, 6, 9)
KEEP_RATIOS = (0.7, 0.49, 0.343)
"""The paper's keep ratio of .7, three times over."""


@POLICY_REGISTRY.register()
class DynamicViT(PredictorPolicy):
    """Before the schedule's blocks, the tokens with the lowest scores are dropped for good.

    In training the drops are drawn at random, and their number varies by image; attention masking
    lets no other token attend to a dropped token. At inference the number kept is fixed,
    floor(share x N). The policy's own schedule: blocks 3, 6 and 9, with shares of .7, .49 and .343.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(PredictorConfig):
        """MODEL.TOKEN_POLICY.DYNAMIC_VIT, and the shared keys."""

        node = "DYNAMIC_VIT"
        ratio_per_image: bool = setting(
            True, "Hold each image, not the batch, to KEEP_RATIOS, as the paper does."
        )

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        schedule = config.schedule(
            shape.depth, layers=LAYERS, shares=KEEP_RATIOS, falling="DynamicViT"
        )
        super().__init__(config=config, schedule=schedule, ratio_per_image=config.ratio_per_image)
        self.predictors = nn.ModuleDict(
            {str(layer): ScorePredictor(shape.embed_dim) for layer in schedule.layers}
        )
        self.set_keep_ratio(config.test_keep_ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that are left; a stage drops some of them first."""
        left = survivors(view, state, self.recall(state))
        if view.layer not in self.schedule:
            return state, hidden(left)
        count = math.floor(self.schedule.share(view.layer) * state.num_patches + 1e-6)
        if not self.training and count == state.num_patches:
            return state, left
        predictor = cast(ScorePredictor, self.predictors[str(view.layer)])
        margin = predictor(state.patches, left.keep if left.gate is None else left.gate)
        margin, macs = margin.masked_fill(~left.keep, -torch.inf), predictor.macs(state.num_patches)
        if self.training:
            keep, gate = drop_by_chance(margin, left)
            notes = Survivors(keep, gate=gate)
        else:
            notes = _highest(view, state, margin, max(count, 1))
        chosen = Selection(
            notes.keep, total=notes.total, gate=notes.gate, score=margin.detach(), macs=macs
        )
        return self.remember(state, notes), hidden(chosen)


def _highest(view: BlockView, state: TokenState, margin: Tensor, count: int) -> Survivors:
    """The `count` tokens of each image with the highest margins."""
    keep = keep_top(margin, count)
    if view.candidates is not None:
        # Fewer than `count` candidates may be left. All other tokens have margins of -inf.
        return Survivors(keep & (margin > -torch.inf))
    return Survivors(keep, None if state.present is not None else count + state.num_extra)
