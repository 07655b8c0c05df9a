"""PassRecord: what happened in one pass. Losses, usage, pictures and counting read the record.

B images, H x W token grid, N = H * W, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svit_det.tokens.grid import TokenGrid
from svit_det.tokens.record import BlockRecord
from svit_det.tokens.state import TokenState


@dataclass(frozen=True)
class PassRecord:
    """What one forward pass did."""

    blocks: tuple[BlockRecord, ...]
    """One per block, in order."""
    grid: TokenGrid
    """The grid of the batch, padding included."""
    notes: Mapping[str, Any]
    """What the policies remembered, under their own keys, after the last block."""
    tokens: Tensor
    """(B, N, C) the patch tokens after the last block, as the policy shows them."""

    @classmethod
    def of(cls, state: TokenState, patches: Tensor) -> PassRecord:
        """The record of a finished state; its map shows `patches` (B, N, C)."""
        return cls(state.history, state.grid, state.notes, patches)

    def keep_maps(self) -> Tensor:
        """(B, L, H, W) bool: block l kept this token."""
        keep = torch.stack([block.selection.keep for block in self.blocks], dim=1)
        return keep.unflatten(2, self.grid.shape)

    def image_keep_maps(self, image: int, grid: TokenGrid) -> Tensor:
        """(L, h, w) bool: the maps of one image, cut to its own `grid` (padding gone)."""
        return self._cut([block.selection.keep for block in self.blocks], image, grid)

    def image_score_maps(self, image: int, grid: TokenGrid) -> Tensor:
        """(L, h, w) each block's score, cut like the keep maps; all blocks must have a score."""
        scores = [block.selection.score for block in self.blocks]
        return self._cut([score for score in scores if score is not None], image, grid)

    def _cut(self, values: list[Tensor], image: int, grid: TokenGrid) -> Tensor:
        height, width = grid.shape
        maps = torch.stack([value[image] for value in values]).unflatten(1, self.grid.shape)
        return maps[:, :height, :width]

    def counts(self) -> Tensor:
        """(B, L) int: patch tokens that each block kept."""
        return torch.stack([block.selection.keep.sum(dim=1) for block in self.blocks], dim=1)

    def kept_shares(self) -> Tensor:
        """(L,) float: share of the batch's patch tokens that each block kept."""
        return self.counts().float().mean(dim=0) / self.grid.num_tokens
