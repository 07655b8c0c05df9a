"""TokenTrace: who ran where, for one batch.

B images, H x W token grid, N = H * W, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svit_det.tokens.state import Selection


@dataclass(frozen=True)
class TokenTrace:
    """The selections of all blocks of one forward pass."""

    selections: tuple[Selection, ...]
    """One per block, in order."""
    grid: tuple[int, int]
    """(H, W) of the batch, padding included."""

    def keep_maps(self) -> Tensor:
        """(B, L, H, W) bool: block l processed this token."""
        keep = torch.stack([selection.keep for selection in self.selections], dim=1)
        return keep.unflatten(2, self.grid)

    def image_keep_maps(self, image: int, size: Sequence[int]) -> Tensor:
        """(L, h, w) bool: the maps of one image, cut to its own `size` in tokens (padding gone)."""
        height, width = size
        return torch.stack(
            [
                selection.keep[image].unflatten(0, self.grid)[:height, :width]
                for selection in self.selections
            ]
        )

    def image_score_maps(self, image: int, size: Sequence[int]) -> Tensor:
        """(L, h, w) what each block decided from, cut as above; all blocks must have a score."""
        height, width = size
        return torch.stack(
            [
                selection.score[image].unflatten(0, self.grid)[:height, :width]
                for selection in self.selections
            ]
        )

    def counts(self) -> Tensor:
        """(B, L) int: patch tokens that went through each block."""
        return torch.stack([selection.keep.sum(dim=1) for selection in self.selections], dim=1)

    def attention_counts(self) -> Tensor:
        """(B, L) int: patch tokens that took part in each block's attention."""
        return torch.stack(
            [(s.keep if s.entered is None else s.entered).sum(dim=1) for s in self.selections],
            dim=1,
        )

    def extra_counts(self) -> Tensor:
        """(B, L, 2) int: tokens off the grid in each block's attention and in its MLP."""
        return torch.stack(
            [
                s.keep.new_zeros(len(s.keep), 2, dtype=torch.int64)
                if s.extra_counts is None
                else s.extra_counts
                for s in self.selections
            ],
            dim=1,
        )

    def keep_ratios(self) -> Tensor:
        """(L,) float: share of the batch's patch tokens that each block processed."""
        return self.counts().float().mean(dim=0) / (self.grid[0] * self.grid[1])
