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

    Extra tokens count as rows too. Where a gate blends, every row is computed.
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
    """The policy's last selection, cut down to the tokens that were really kept."""
    keys: Tensor
    """(B, N) bool, patch tokens that were keys."""
    queries: Tensor
    """(B, N) bool, patch tokens whose attention counts."""
    mlp: Tensor
    """(B, N) bool, patch tokens whose MLP result counts."""
    rows: RowCounts
    size: int
    """S of the buffer that the MLP's rows were taken from."""
    looked: bool = False
    """The policy asked for the class token's attention."""
    looked_at_all: bool = False
    """The policy asked for the class token's attention to every token, skipped ones included. The
    keys of all tokens were projected for that alone."""
    own_class_query: bool = False
    """The class token's query was projected for the policy alone: no row had computed it yet."""
    joined: bool = False
    """The queries of all keys were projected together with keys and values, those of tokens that
    then did not attend included."""
    heads: int | None = None
    """Number of attention heads computed for each image that attended, whether or not their output
    counts. None: all."""
    keys_again: bool = False
    """Keys and values were projected again, with all heads, only for the policy to look at."""

    @property
    def everyone(self) -> bool:
        """Every token was kept, and that was known without asking the device."""
        return self.selection.total == self.size

    @property
    def took_part(self) -> Tensor:
        """(B, N) bool, patch tokens whose result of the attention or of the MLP counts."""
        return self.queries | self.mlp
