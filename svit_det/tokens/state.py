"""The vocabulary: what travels from block to block, and what a policy says about it.

Shape shorthand, used in every module of this package:

    B images    H, W token grid    N = H * W patch tokens    E extra tokens off the grid
    C channels    L blocks    T packed tokens of all images together
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """Which patch tokens a block processes."""

    keep: Tensor
    """(B, N) bool."""
    gate: Tensor | None = None
    """(B, N) straight-through twin of `keep`; where present the block is computed for all tokens
    and blended by it, so that the decision gets a gradient."""
    score: Tensor | None = None
    """(B, N) what the decision was made from (a margin, a class attention, a halting score)."""
    whole: bool = False
    """`keep` is all ones by construction: no packing, no question to the device."""
    entered: Tensor | None = None
    """(B, N) bool, who took part in the block's attention, where fewer went on to its MLP.
    None: the same tokens did both."""
    extra_counts: Tensor | None = None
    """(B, 2) int64, tokens off the grid in the block's attention and in its MLP, filled in by the
    executor. None: there are none."""


@dataclass(frozen=True)
class ClassAttention:
    """The class token's view of the other tokens in one block, patches in grid coordinates."""

    weights: Tensor
    """(B, num_heads, N) softmax weights over all keys; 0 for a token that was not in the block."""
    extra_weights: Tensor
    """(B, num_heads, E) the same for the tokens off the grid, the class token itself first."""
    value_norm: Tensor
    """(B, N) L2 norm of each token's value vector, all heads together; 0 likewise."""


@dataclass(frozen=True)
class TokenState:
    """All that travels from one block to the next. Never mutated: `replace` makes the next."""

    patches: Tensor
    """(B, N, C) every patch token, row-major; a token that is skipped stays as it is."""
    extra: Tensor
    """(B, E, C) tokens off the grid (class, fused, representative); always processed. The class
    token, where there is one, comes first."""
    grid: tuple[int, int]
    """(H, W)."""
    present: Tensor | None = None
    """(B, E) bool, the tokens off the grid that an image has. None: all; the class token always."""
    allowed: Tensor | None = None
    """(B, N) bool, the patch tokens a policy may choose from. None: all."""
    memory: Any = None
    """What the policy remembers between the blocks of this one forward pass."""
    trace: tuple[Selection, ...] = ()
    """One entry per block run so far."""
