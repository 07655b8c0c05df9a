"""EViT: inside three blocks, tokens that the class token looks at least are fused into one.

Source: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations", ICLR 2022, sections 3.2 and 3.3.

B images, N patch tokens, E extra tokens (class, then one slot for each fused), C channels.

Departures from the paper, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch that is fused keeps the value it had then, after the attention, in the map, and stays out
  of all later blocks. The paper discards it.
- Kept tokens stay in the grid's order, not in that of their scores; attention does not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy, keep_highest, survivors
from svit_det.policies.keep_schedule import (
    check_falling,
    check_schedule,
    check_test_keep_ratio,
    with_mean,
)
from svit_det.tokens import ClassAttention, Selection, TokenState, TokenTrace

LAYERS = (3, 6, 9)
KEEP_RATIOS = (0.7, 0.49, 0.343)
"""The paper's keep rate of .7, three times over."""


@POLICY_REGISTRY.register()
class EViT(TokenPolicy):
    """In each of `layers`, the class token's attention says which tokens go on to the MLP.

    Of the n tokens in a block besides the class token, earlier fused ones included, the ceil(r n)
    with the highest attention, mean over heads, go on; the others are summed into one more token,
    weighted by their attention, which is not normalised. The rate r of a block is its share in
    `keep_ratios` over that of the one before. The number kept does not depend on the image.

    Training may begin with `warmup_start` steps at r = 1, after which r falls to its value along a
    cosine over `warmup_steps`; training from scratch its authors take 10 and 100 epochs.
    """

    needs_class_token = True

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        layers: Sequence[int] = LAYERS,
        keep_ratios: Sequence[float] = KEEP_RATIOS,
        fuse: bool = True,
        warmup_start: int = 0,
        warmup_steps: int = 0,
        test_keep_ratio: float | None = None,
    ) -> None:
        super().__init__()
        check_schedule(layers, keep_ratios, depth)
        check_falling(layers, keep_ratios, "EViT")
        if warmup_start < 0 or warmup_steps < 0:
            raise InputError(
                f"MODEL.TOKEN_POLICY.EVIT: WARMUP_START {warmup_start} and WARMUP_STEPS "
                f"{warmup_steps} must be 0 or more."
            )
        self.embed_dim = embed_dim
        self.layers = tuple(layers)
        self.keep_ratios = tuple(keep_ratios)
        self.trained_rates = _rates(keep_ratios)
        self.fuse = fuse
        self.adds_tokens = fuse
        self.warmup_start = warmup_start
        self.warmup_steps = warmup_steps
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self.set_keep_ratio(test_keep_ratio)

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> EViT:
        """Build from the node `MODEL.TOKEN_POLICY`."""
        return cls(
            embed_dim=embed_dim,
            depth=depth,
            layers=cfg.LAYERS or LAYERS,
            keep_ratios=cfg.KEEP_RATIOS or KEEP_RATIOS,
            fuse=cfg.EVIT.FUSE,
            warmup_start=cfg.EVIT.WARMUP_START,
            warmup_steps=cfg.EVIT.WARMUP_STEPS,
            test_keep_ratio=cfg.TEST_KEEP_RATIO,
        )

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share over `layers`; None: as trained."""
        check_test_keep_ratio(ratio)
        self.test_rates = _rates(with_mean(self.keep_ratios, ratio))

    @property
    def attention_layers(self) -> frozenset[int]:
        """Those of `layers` that drop anyone, so that keeping everyone costs nothing."""
        rates = self.trained_rates if self.training else self.test_rates
        return frozenset(layer for layer, rate in zip(self.layers, rates) if rate < 1)

    def keep_rates(self) -> list[float]:
        """The rate r of each of `layers`, of the tokens that are in it."""
        if not self.training:
            return self.test_rates
        warmth = self._warmth()
        return [rate + (1 - rate) * warmth for rate in self.trained_rates]

    def _warmth(self) -> float:
        """1 at the start of the warm-up, 0 after it."""
        if self.warmup_start + self.warmup_steps == 0:
            return 0.0
        step = int(self.num_steps) - self.warmup_start
        if step < 0:
            return 1.0
        if step >= self.warmup_steps:
            return 0.0
        return (1 + math.cos(math.pi * step / self.warmup_steps)) / 2

    def track(self, trace: TokenTrace) -> None:
        """Count the steps of the warm-up."""
        self.num_steps += 1

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Those who were never dropped."""
        return state, survivors(state)

    def after_attention(
        self,
        layer: int,
        entered: TokenState,
        attended: TokenState,
        selection: Selection,
        attention: ClassAttention,
    ) -> tuple[TokenState, Selection]:
        """Keep the most looked at; fuse the others."""
        rate = self.keep_rates()[self.layers.index(layer)]
        if rate == 1:
            return attended, selection
        num_patches = selection.keep.shape[1]
        # Extra token 0 is the class token itself; the fused ones compete like patches.
        score = torch.cat([attention.weights, attention.extra_weights[..., 1:]], dim=2).mean(dim=1)
        fused_before = attended.extra.shape[1] - 1
        present = attended.present
        if present is None:
            present = selection.keep.new_ones(len(score), 1 + fused_before)
        among = torch.cat([selection.keep, present[:, 1:]], dim=1)
        # In double: .7 of 4,200 in single precision is not 2,940.
        counts = (among.sum(dim=1).double() * rate).ceil().long()
        on = keep_highest(score.detach(), among, counts)
        keep = on[:, :num_patches]
        gate = None if selection.gate is None else selection.gate * keep
        chosen = Selection(keep=keep, gate=gate, score=score[:, :num_patches].detach())
        state = replace(attended, memory=keep)
        if self.fuse:
            still = torch.cat([present[:, :1], on[:, num_patches:]], dim=1)
            state = _fuse(state, score, among & ~on, still)
        return state, chosen

    def decision_macs(self, num_tokens: int) -> dict[int, int]:
        """The weighted sums that fuse."""
        if not self.fuse:
            return {}
        return {
            layer: (num_tokens + fused_before) * self.embed_dim
            for fused_before, layer in enumerate(sorted(self.attention_layers))
        }


def _rates(shares: Sequence[float]) -> list[float]:
    """Shares of all tokens -> shares of those that the block before left."""
    # Rounded, so that .49 after .7 is .7 again and not a hair more, which ceil would see.
    return [round(after / before, 12) for before, after in zip((1.0, *shares), shares)]


def _fuse(state: TokenState, score: Tensor, dropped: Tensor, still: Tensor) -> TokenState:
    """One more extra token: the sum of the `dropped` (B, N + fused) by their `score`.

    `still` (B, E) says which extra tokens go on. An image that drops nobody gets no new one.
    """
    num_patches, fused_before = state.patches.shape[1], state.extra.shape[1] - 1
    weights = (score * dropped).to(state.patches.dtype).unsqueeze(1)
    of_patches, of_fused = weights.split([num_patches, fused_before], dim=2)
    fused = of_patches @ state.patches + of_fused @ state.extra[:, 1:]
    new = dropped.any(dim=1, keepdim=True)
    return replace(
        state,
        extra=torch.cat([state.extra, fused.to(state.extra.dtype)], dim=1),
        present=torch.cat([still, new], dim=1),
    )
