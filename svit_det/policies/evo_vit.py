"""Evo-ViT: tokens with the highest running class attention run, the others stay as placeholders.

Source: Xu et al., "Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer", AAAI 2022,
and its released code; the dense version in the released code of SViT.

B images, N patch tokens, E extra tokens (class, in a block also the representative), C channels.

Departures from the paper:

- The class token starts at random, because a dense model has none.
- Layer-wise selection also at inference, as in the dense version. The classification code trains
  layer-wise first and runs stage-wise (`stage_wise`).
- Tokens are not sorted by their score: the map keeps its order, and the score lies over the map.
- Skipped tokens stay as they are, as in the released DeiT models, whose authors found that a
  representative token did not matter. The paper's representative is `representative`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy, everyone, keep_top
from svit_det.policies.keep_schedule import (
    check_schedule,
    check_test_keep_ratio,
    with_mean,
)
from svit_det.tokens import ClassAttention, Selection, TokenState

LAYERS = tuple(range(4, 12))
KEEP_RATIO = 0.5
STAGES = (4, 8)


class _Running(NamedTuple):
    score: Tensor
    """(B, N) the running class attention, summed over heads."""
    keep: Tensor | None = None
    """(B, N) bool, whom the last selection chose."""


@POLICY_REGISTRY.register()
class EvoViT(TokenPolicy):
    """Each of `layers` processes the int(r N) tokens, at least one, with the highest running score.

    A block's class attention a, summed over heads, updates the score g of those that it processes:
    g <- (1 - t) g + t a, with t = `score_update` in `layers` and `score_update_before` before them;
    in block 0 g = a. The others keep their g, so that the set can hardly change.

    `stage_wise`: the first block of each of `stages` selects, and the blocks up to the next one
    process the same tokens, as many as its ratio says. `representative` (slow-fast updating): one
    token, the mean of the skipped weighted by their scores, runs along, and what it changes by is
    added to all of them.
    """

    needs_class_token = True

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        layers: Sequence[int] = LAYERS,
        keep_ratios: Sequence[float] | None = None,
        stage_wise: bool = False,
        stages: Sequence[int] = STAGES,
        score_update: float = 0.5,
        score_update_before: float = 0.5,
        representative: bool = False,
        test_keep_ratio: float | None = None,
    ) -> None:
        super().__init__()
        if keep_ratios is None:
            keep_ratios = (KEEP_RATIO,) * len(layers)
        check_schedule(layers, keep_ratios, depth)
        if 0 in layers:
            raise InputError(
                "MODEL.TOKEN_POLICY.LAYERS: block 0 cannot choose under EvoViT, whose score is the "
                "class attention of the blocks before."
            )
        if stage_wise:
            _check_stages(stages, layers)
        for key, weight in (("", score_update), ("_BEFORE", score_update_before)):
            if not 0 < weight <= 1:
                raise InputError(
                    f"MODEL.TOKEN_POLICY.EVO_VIT.SCORE_UPDATE{key}: {weight} must lie in (0, 1]."
                )
        self.embed_dim = embed_dim
        self.layers = tuple(layers)
        self.keep_ratios = tuple(keep_ratios)
        self.stages = tuple(stages) if stage_wise else None
        self.score_update = score_update
        self.score_update_before = score_update_before
        self.representative = representative
        self.adds_tokens = representative
        self.preserves = not representative
        self.set_keep_ratio(test_keep_ratio)

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> EvoViT:
        """Build from the node `MODEL.TOKEN_POLICY`."""
        return cls(
            embed_dim=embed_dim,
            depth=depth,
            layers=cfg.LAYERS or LAYERS,
            keep_ratios=cfg.KEEP_RATIOS or None,
            stage_wise=cfg.EVO_VIT.STAGE_WISE,
            stages=cfg.EVO_VIT.STAGES,
            score_update=cfg.EVO_VIT.SCORE_UPDATE,
            score_update_before=cfg.EVO_VIT.SCORE_UPDATE_BEFORE,
            representative=cfg.EVO_VIT.REPRESENTATIVE,
            test_keep_ratio=cfg.TEST_KEEP_RATIO,
        )

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share over `layers`; None: as trained."""
        check_test_keep_ratio(ratio)
        self.test_ratios = with_mean(self.keep_ratios, ratio)

    def _ratio(self, layer: int) -> float:
        ratios = self.keep_ratios if self.training else self.test_ratios
        return ratios[self.layers.index(layer)]

    @property
    def selecting(self) -> tuple[int, ...]:
        """The blocks that choose anew; the others of `layers` keep to the last choice."""
        return self.layers if self.stages is None else self.stages

    @property
    def score_layers(self) -> frozenset[int]:
        """Blocks whose attention some later choice hangs on."""
        choosing = [layer for layer in self.selecting if self._ratio(layer) < 1]
        if not choosing:
            return frozenset()
        # An update by the whole forgets all blocks before it.
        start = min(choosing) - 1 if self.score_update_before == 1 else 0
        return frozenset(range(start, max(choosing)))

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Those with the highest score; a representative of the others joins the extra tokens."""
        memory: _Running | None = state.memory
        if layer not in self.layers or memory is None:
            return state, everyone(state)
        if layer in self.selecting:
            memory = memory._replace(keep=self._choose(layer, memory.score, state.allowed))
        if memory.keep is None:
            return replace(state, memory=memory), everyone(state)
        keep = memory.keep if state.allowed is None else memory.keep & state.allowed
        state = replace(state, memory=memory)
        if self.representative:
            state = _add_representative(state, memory.score * ~keep, ~keep)
        return state, Selection(keep=keep, score=memory.score)

    def _choose(self, layer: int, score: Tensor, allowed: Tensor | None) -> Tensor | None:
        ratio = self._ratio(layer)
        if ratio >= 1:
            return None
        if allowed is not None:
            score = score.masked_fill(~allowed, -1)
        return keep_top(score, max(int(ratio * score.shape[1]), 1))

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Update the score of those who run; who runs does not change any more."""
        seen = attention.weights.detach().sum(dim=1)
        memory: _Running | None = entered.memory
        if memory is None:
            memory = _Running(score=seen)
        else:
            weight = self.score_update if layer in self.layers else self.score_update_before
            score = torch.where(selection.keep, memory.score.lerp(seen, weight), memory.score)
            memory = memory._replace(score=score)
        return replace(entered, memory=memory), selection

    def after_block(
        self, layer: int, entered: TokenState, processed: TokenState, selection: Selection
    ) -> TokenState:
        """Give the representative's change to all that were skipped, and let it go."""
        if processed.extra.shape[1] == 1:
            return processed
        change = (processed.extra[:, 1:] - entered.extra[:, 1:]) * ~selection.keep.unsqueeze(-1)
        return replace(
            processed,
            patches=processed.patches + change,
            extra=processed.extra[:, :1],
            present=None,
        )

    def decision_macs(self, num_tokens: int) -> dict[int, int]:
        """The weighted mean that is the representative."""
        macs, ratio = {}, 1.0
        for layer in sorted(self.layers) if self.representative else ():
            if layer in self.selecting:
                ratio = self._ratio(layer)
            if ratio < 1:
                macs[layer] = num_tokens * self.embed_dim
        return macs


def _add_representative(state: TokenState, weights: Tensor, skipped: Tensor) -> TokenState:
    """The mean of the `skipped` (B, N) by `weights` (B, N) as one more extra token.

    An image that skips nobody has none.
    """
    total = weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = (weights / total).to(state.patches.dtype).unsqueeze(1) @ state.patches
    some = skipped.any(dim=1, keepdim=True)
    return replace(
        state,
        extra=torch.cat([state.extra, mean.to(state.extra.dtype)], dim=1),
        present=torch.cat([torch.ones_like(some), some], dim=1),
    )


def _check_stages(stages: Sequence[int], layers: Sequence[int]) -> None:
    if list(stages) != sorted(set(stages)) or not set(stages) <= set(layers):
        raise InputError(
            f"MODEL.TOKEN_POLICY.EVO_VIT.STAGES: {list(stages)} must be blocks of LAYERS, "
            f"{list(layers)}, in ascending order."
        )
    if not stages or min(layers) < stages[0]:
        raise InputError(
            f"MODEL.TOKEN_POLICY.EVO_VIT.STAGES: {list(stages)} must begin with the first of "
            f"LAYERS, {min(layers)}."
        )
