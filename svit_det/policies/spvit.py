"""SPViT: the tokens that a stage drops are summed into one package token; it stays an extra token.

Source: Kong et al., "SPViT: Enabling Faster Vision Transformers via Latency-Aware Soft Token
Pruning", ECCV 2022, section 4, and the released code.

B images, N patch tokens.

Departures from the paper and its code, for dense maps:

- A dropped patch token keeps its last value in the map; the wrapper `Forgetful` discards it.
- At inference a stage keeps the tokens whose margin exceeds its threshold, which training tracks
  (`argmax`: the tokens that are more probably kept than not). The released evaluation removes no
  token, or draws noise again.
- A package is divided by the sum of its weights (`package_norm`). The released code takes the plain
  sum, which would dwarf every other token at thousands of tokens. The released inference takes a
  plain mean, and writes the package at the place with the number of kept tokens plus one; both are
  errors and not copied.
- An image that drops no token at a stage gets no package; the released code appends zeros.
- The shares are configurable; the released code ignores its argument.
- The search for stages under a latency target was not released and is missing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.policies.base import BlockView, TrunkShape
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import drop_by_chance, exact
from svit_det.policies.predictor import PredictorConfig, PredictorPolicy, hidden
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import Survivors, survivors
from svit_det.policies.scorers import TokenSelector
from svit_det.policies.thresholded import ThresholdedPolicy
from svit_det.settings import setting
from svit_det.tokens import Selection, TokenState

LAYERS = (3, 6, 9)
KEEP_RATIOS = (0.617, 0.369, 0.137)
MODES = ("threshold", "argmax")


@POLICY_REGISTRY.register()
class SPViT(ThresholdedPolicy, PredictorPolicy):
    """Before the schedule's blocks a selector drops tokens for good; their number varies by image.

    The policy's own schedule: blocks 3, 6 and 9, with shares of .617, .369 and .137 as targets of
    the batch's mean.
    """

    adds_tokens = True

    @dataclass(frozen=True, kw_only=True)
    class Config(PredictorConfig):
        """MODEL.TOKEN_POLICY.SPVIT, and the shared keys."""

        mode: str = setting("threshold", "How stages decide at inference.", choices=MODES)
        ratio_per_image: bool = setting(False, "Hold each image, not the batch, to KEEP_RATIOS.")
        shared_heads: bool = setting(
            True, "Use one scorer for all heads of a selector, as in the released code."
        )
        package_norm: bool = setting(True, "Divide a package token by the sum of its weights.")

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        schedule = config.schedule(shape.depth, layers=LAYERS, shares=KEEP_RATIOS, falling="SPViT")
        super().__init__(config=config, schedule=schedule, ratio_per_image=config.ratio_per_image)
        self.mode = config.mode
        self.embed_dim = shape.embed_dim
        self.package_norm = config.package_norm
        self.selectors = nn.ModuleDict(
            {
                str(layer): TokenSelector(
                    shape.embed_dim, shape.num_heads, shared_heads=config.shared_heads
                )
                for layer in schedule.layers
            }
        )
        self.budget = KeepBudget(schedule.shares, nested=True)
        self.set_keep_ratio(config.test_keep_ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that are left; a stage first packs some of them into one more extra token."""
        left = survivors(view, state, self.recall(state))
        if view.layer not in self.schedule or (self.keep_ratio == 1 and not self.training):
            return state, hidden(left)
        selector = cast(TokenSelector, self.selectors[str(view.layer)])
        margin, probability = self._ask(selector, state, left)
        margin = margin.masked_fill(~left.keep, -torch.inf)
        if self.training:
            keep, gate = drop_by_chance(margin, left)
            notes = Survivors(keep, gate=gate)
        else:
            notes = Survivors(self.above_threshold(view.layer, margin))
        macs = selector.macs(state.tokens.shape[1]) + state.num_patches * self.embed_dim
        chosen = Selection(notes.keep, gate=notes.gate, score=margin.detach(), macs=macs)
        state = self._pack(state, left, notes, probability)
        return self.remember(state, notes), hidden(chosen)

    def _ask(
        self, selector: TokenSelector, state: TokenState, left: Selection
    ) -> tuple[Tensor, Tensor]:
        """Margins and probabilities (B, N); earlier packages count in the means over tokens."""
        packages, weight = state.presence(), left.keep if left.gate is None else left.gate
        if state.class_token:
            packages = packages.index_fill(1, packages.new_zeros(1, dtype=torch.long), 0)
        weight = torch.cat([packages.to(weight.dtype), weight], dim=1)
        margin, probability = selector(state.tokens, weight)
        return margin[:, state.num_extra :], probability[:, state.num_extra :]

    def _pack(
        self, state: TokenState, left: Selection, notes: Survivors, probability: Tensor
    ) -> TokenState:
        """One more extra token: the tokens dropped here, weighed by their probability (B, N)."""
        before, after = (each.keep if each.gate is None else each.gate for each in (left, notes))
        weights = (before.float() - after.float()) * probability
        if self.package_norm:
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        with exact(state.tokens):  # a sum of thousands of tokens overflows half precision
            package = weights.unsqueeze(1) @ state.patches.float()
        some = (left.keep & ~notes.keep).any(dim=1, keepdim=True)
        return state.with_more(package, present=torch.cat([state.presence(), some], dim=1))
