"""BlockRecord: what happened in one block.

B images, N patch tokens, S tokens of the buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from svit_det.tokens.selection import Selection


class RowCounts(NamedTuple):
    """Rows of each image that were really computed, whether or not their result counts.

    Extra tokens are among them; where a gate blends, every row is computed.
    """

    keys: tuple[int, ...]
    """Rows that went through norm, keys and values."""
    queries: tuple[int, ...]
    """Rows that attended."""
    mlp: tuple[int, ...]
    """Rows that went through the MLP."""


@dataclass(frozen=True)
class BlockRecord:
    """What one block did. Written by `run_block` alone."""

    selection: Selection
    """What the policy said last, of what was really kept."""
    keys: Tensor
    """(B, N) bool, patch tokens that were keys."""
    queries: Tensor
    """(B, N) bool, patch tokens whose attention counts."""
    mlp: Tensor
    """(B, N) bool, patch tokens that went through the MLP, so that it counts."""
    rows: RowCounts
    size: int
    """S of the buffer that the MLP's rows were taken from."""
    looked: bool = False
    """The policy asked for the class token's attention."""
    looked_at_all: bool = False
    """It asked for the same over every token, whose keys were projected for that alone."""
    own_class_query: bool = False
    """The class token's query was projected for that alone, because the queries were not there."""
    heads: int | None = None
    """Attention heads that were computed, of each image that attended, whether or not their output
    counts. None: all."""
    keys_again: bool = False
    """Keys and values were projected again, with all heads, for the policy to look at alone."""

    @property
    def everyone(self) -> bool:
        """Every token was kept, which was known without looking."""
        return self.selection.total == self.size

    @property
    def took_part(self) -> Tensor:
        """(B, N) bool, patch tokens with any part in the block that may change them."""
        return self.queries | self.mlp
