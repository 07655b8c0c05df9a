"""DeiT's layers on packed rows: a row is a token, an image is a run of rows.

T packed tokens of all images together, C channels, h heads, d = C / h.
Source: DeiT (Touvron et al. 2021) and its names: a DeiT state dict fits as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.tokens import Segments


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, *, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, height, width) -> (B, C, H, W), each side divided by the patch size.

        Laid out channels last: a token is a row of memory, and stays one in every block.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"An image batch of {height} x {width} pixels does not divide into patches of "
                f"{self.patch_size}: pad it to a multiple, as detectron2's ImageList does."
            )
        return self.proj(images).contiguous(memory_format=torch.channels_last)


class Attention(nn.Module):
    """Multi-head self-attention within each image's rows."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InputError(
                f"MODEL.VIT.NUM_HEADS: {embed_dim} channels do not divide into {num_heads} heads."
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, rows: Tensor, segments: Segments, class_row: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """(T, C) -> (T, C), and with `class_row` what each image's first row looked at.

        That is (weights (h, T) softmax over the image's own rows, value_norm (T,)): one row per
        head and image, no N x N matrix.
        """
        qkv = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1))
        if segments.uniform:
            attended = self._attend_together(qkv, segments)
        else:
            attended = self._attend_one_by_one(qkv, segments)
        looked_at = self._class_row(qkv.detach(), segments) if class_row else None
        return self.proj(attended), looked_at

    def _attend_together(self, qkv: Tensor, segments: Segments) -> Tensor:
        """Images of equal length are a plain batch: (T, 3, h, d) -> (T, C)."""
        batch = qkv.unflatten(0, (len(segments.lengths), -1))
        query, key, value = batch.permute(2, 0, 3, 1, 4)
        mask = segments.key_mask
        if mask is not None:
            mask = mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)

    def _attend_one_by_one(self, qkv: Tensor, segments: Segments) -> Tensor:
        """A loop over the images: on CPU faster than padding and than jagged nested tensors."""
        images = []
        for image in qkv.split(segments.lengths):
            if len(image):
                query, key, value = image.permute(1, 2, 0, 3).unsqueeze(1)
                attended = F.scaled_dot_product_attention(query, key, value)
                images.append(attended[0].transpose(0, 1).flatten(1))
        return torch.cat(images)

    def _class_row(self, qkv: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """(T, 3, h, d) -> the first row's softmax weights (h, T) and the value norms (T,)."""
        query, key, value = qkv.float().unbind(1)
        scale = query.shape[-1] ** -0.5
        weights, first = [], 0
        for image, length in enumerate(segments.lengths):
            keys = key[first : first + length]
            # Not a matrix product, which autocast would round; a ranking hangs on it.
            logits = (query[first] * scale * keys).sum(dim=-1).T
            if segments.key_mask is not None:
                logits = logits.masked_fill(~segments.key_mask[image], float("-inf"))
            weights.append(logits.softmax(dim=-1))
            first += length
        return torch.cat(weights, dim=1), value.flatten(1).norm(dim=1)


CPU_ROWS = 2048
"""Rows that an MLP takes at a time on a CPU without gradients: the hidden layer of more would fall
out of the cache, which costs about a fifth of the time."""


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        if rows.is_cpu and len(rows) > CPU_ROWS and not torch.is_grad_enabled():
            return torch.cat([self.fc2(self.act(self.fc1(part))) for part in rows.split(CPU_ROWS)])
        return self.fc2(self.act(self.fc1(rows)))


class DropPath(nn.Module):
    """Stochastic depth: drops a branch for a whole image in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, rows: Tensor, segments: Segments) -> Tensor:
        """(T, C) -> (T, C); all rows of an image share one draw, scaled to keep the mean."""
        if not self.training or self.rate == 0:
            return rows
        survive = 1 - self.rate
        draw = torch.rand(len(segments.lengths), device=rows.device) < survive
        lengths = torch.tensor(segments.lengths, device=rows.device)
        factor = (draw.to(rows.dtype) / survive).repeat_interleave(lengths, output_size=len(rows))
        return rows * factor.unsqueeze(1)

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
