"""DeiT's layers on rows: a row is a token that is computed; the rows of an image lie together.

T rows of all images together, C channels, h heads, d = C / h.
Source: DeiT (Touvron et al. 2021) and its names: a DeiT state dict fits as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.vit.attention import Attention
from svit_det.vit.layout import Layout


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, *, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, height, width) -> (B, C, H, W), each side divided by the patch size.

        The memory layout is channels last: a token is one row of memory, here and in every block.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"An image batch of {height} x {width} pixels does not divide into patches of "
                f"{self.patch_size}: pad it to a multiple, as detectron2's ImageList does."
            )
        return self.proj(images).contiguous(memory_format=torch.channels_last)

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for one image of `num_tokens` tokens."""
        return num_tokens * self.proj.weight.numel()


def per_image(values: Tensor, layout: Layout) -> Tensor:
    """(B,) -> (T, 1): each row gets the value of its image."""
    if layout.shape is not None:
        return values.repeat_interleave(layout.shape[1]).unsqueeze(1)
    lengths = torch.tensor(layout.lengths, device=values.device)
    rows = values.repeat_interleave(lengths, output_size=layout.num_rows)
    return rows.unsqueeze(1)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        return self.fc2(self.act(self.fc1(rows)))

    def macs(self, rows: int) -> int:
        """Multiply-adds for one image's rows."""
        return rows * (self.fc1.weight.numel() + self.fc2.weight.numel())


class DropPath(nn.Module):
    """Stochastic depth: drops a branch for a whole image in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """(T, C) -> (T, C); all rows of an image share one draw, scaled to keep the mean."""
        if not self.training or self.rate == 0:
            return rows
        survive = 1 - self.rate
        draw = torch.rand(len(layout.lengths), device=rows.device) < survive
        return rows * per_image(draw.to(rows.dtype) / survive, layout)

    def extra_repr(self) -> str:
        """Shown in a printed model."""
        return f"rate={self.rate:g}"


class Block(nn.Module):
    """Pre-norm transformer block. It has no `forward`: `run_block` calls its parts in turn."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        layer_norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def add(self, rows: Tensor, branch: Tensor, layout: Layout) -> Tensor:
        """(T, C) rows and a branch's results (T, C) -> their sum, under stochastic depth."""
        if self.training and self.drop_path.rate:
            branch = self.drop_path(branch, layout)
        return rows + branch

    def macs(
        self,
        keys: int,
        queries: int | None = None,
        mlp: int | None = None,
        *,
        heads: int | None = None,
    ) -> int:
        """Multiply-adds for one image with these numbers of rows. None: as many rows as keys."""
        queries, mlp = (keys if rows is None else rows for rows in (queries, mlp))
        return self.attn.macs(keys, queries, heads) + self.mlp.macs(mlp)
