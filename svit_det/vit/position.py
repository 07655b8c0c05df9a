"""Absolute position embeddings: their initial values, and their resizing to another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(1, h * w, C) on the grid `old` -> (1, H * W, C) on `new`, bicubic as in ViT-Adapter."""
    # A graph of open size always resizes: a comparison would fix the graph to the present size.
    if all(isinstance(side, int) for side in new) and old == new:
        return pos_embed
    grid = pos_embed.transpose(1, 2).unflatten(2, old)
    grid = F.interpolate(grid.float(), size=new, mode="bicubic", align_corners=False)
    return grid.to(pos_embed.dtype).flatten(2).transpose(1, 2)


def sincos_pos_embed(grid: tuple[int, int], embed_dim: int) -> Tensor:
    """(1, H * W, C): sines and cosines of the row in one half, of the column in the other.

    This is the fixed embedding of MAE (He et al. 2022). Here it is the initial value for training
    from scratch. If C is no multiple of 4, the last channels are zero.
    """
    quarter = embed_dim // 4
    frequency = 10_000 ** (-torch.arange(quarter) / max(quarter, 1))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    parts = []
    for position in (rows.flatten(), columns.flatten()):
        angle = position[:, None] * frequency[None]
        parts += [angle.sin(), angle.cos()]
    embedding = torch.cat(parts, dim=1)
    return F.pad(embedding, (0, embed_dim - embedding.shape[1])).unsqueeze(0)
