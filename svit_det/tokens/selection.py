"""Selection: what a policy says about one block. ClassAttention: what the class token attends to.

B images, E extra tokens, N patch tokens, S = E + N, h heads. The words are those of `state.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockParts:
    """Which sub-layers and heads of a block run, image by image (AdaViT).

    Each is bool, or a gate: floating point, exactly 0 or 1, with the gradient of the decision.
    """

    attend: Tensor
    """(B,) the image runs the attention."""
    feed: Tensor
    """(B,) the image runs the MLP."""
    heads: Tensor
    """(B, h) heads whose output counts; the output of the others is zero before the projection."""


@dataclass(frozen=True)
class Selection:
    """Which tokens a block keeps: the policy's decision, before the block carries it out."""

    keep: Tensor
    """(B, N) bool, patch tokens."""
    extra: Tensor | None = None
    """(B, E) bool, extra tokens. None: all that are present."""
    total: int | None = None
    """Rows of every image, extra tokens among them, known without asking the device; S says that
    every token runs. The number is a promise: `keep` and `extra` must hold exactly so many tokens.
    None: the count depends on the data."""
    gate: Tensor | None = None
    """(B, N) straight-through twin of `keep`. Where a gate is given, every token is computed and
    the gate blends the result, so that the decision gets a gradient."""
    extra_gate: Tensor | None = None
    """(B, E) straight-through twin of `extra`, where a gate decides about the class token too."""
    score: Tensor | None = None
    """(B, N) what the decision was made from (a margin, a class attention, a halting score)."""
    soft_keys: Tensor | None = None
    """(B, N) factor of each key's weight inside the softmax, in training; a token's weight on
    itself is never reduced (DynamicViT, attention masking)."""
    parts: BlockParts | None = None
    """Sub-layers and heads that run. None: all."""
    macs: int = 0
    """Multiply-adds per image that the decision itself has cost in this block."""

    def mask(self, presence: Tensor) -> Tensor:
        """(B, S) bool over the whole buffer; `presence` (B, E) says which extra tokens exist."""
        if presence.shape[1] == 0:
            return self.keep
        extra = presence if self.extra is None else presence & self.extra
        return torch.cat([extra, self.keep], dim=1)

    def only_in(self, images: Tensor, presence: Tensor) -> Selection:
        """The same selection, without any token of the images where `images` (B,) bool is False."""
        runs = images.unsqueeze(1)
        extra = presence if self.extra is None else self.extra
        return replace(
            self,
            keep=self.keep & runs,
            extra=extra & runs,
            gate=None if self.gate is None else self.gate * runs,
            extra_gate=None if self.extra_gate is None else self.extra_gate * runs,
            total=None,
        )

    def same_rows(self, other: Selection) -> bool:
        """Whether both surely mean the same rows and the same blending; no values are compared."""
        return (
            self.keep is other.keep
            and self.extra is other.extra
            and self.gate is other.gate
            and self.extra_gate is other.extra_gate
            and self.soft_keys is other.soft_keys
            and self.parts is other.parts
        )


@dataclass(frozen=True)
class ClassAttention:
    """What the class token attends to in one block, patch tokens in grid coordinates."""

    weights: Tensor
    """(B, h, N) softmax weights over all keys; 0 for a patch token that is no key."""
    extra_weights: Tensor
    """(B, h, E) the same for the extra tokens, the class token itself first."""
