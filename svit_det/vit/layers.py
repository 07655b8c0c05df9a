"""DeiT's layers on rows: a row is a token that is computed, an image is a run of rows.

T rows of all images together, C channels, h heads, d = C / h.
Source: DeiT (Touvron et al. 2021) and its names: a DeiT state dict fits as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.vit.layout import Layout


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

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for one image of `num_tokens` tokens."""
        return num_tokens * self.proj.weight.numel()


class QKV(nn.Linear):
    """Queries, keys and values as one linear layer, of which a run of parts can be computed."""

    def forward(self, rows: Tensor, start: int = 0, stop: int = 3) -> Tensor:
        """(T, C) -> (T, (stop - start) C): parts `start` to `stop` of queries, keys and values."""
        if (start, stop) == (0, 3):
            return super().forward(rows)
        width = self.in_features
        part = slice(start * width, stop * width)
        return F.linear(rows, self.weight[part], self.bias[part])


class Attention(nn.Module):
    """Multi-head self-attention within each image's rows.

    The projections are modules; the kernel between them is chosen by the layouts of the rows.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InputError(
                f"{embed_dim} channels do not divide into {num_heads} heads.", setting="num_heads"
            )
        self.num_heads = num_heads
        self.qkv = QKV(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def project(self, rows: Tensor, start: int = 0, stop: int = 3) -> Tensor:
        """(T, C) -> (T, stop - start, h, d): parts of queries (0), keys (1) and values (2)."""
        return self.qkv(rows, start, stop).unflatten(-1, (stop - start, self.num_heads, -1))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        queries: Layout,
        keys: Layout,
        soft_keys: Tensor | None = None,
        heads: Tensor | None = None,
    ) -> Tensor:
        """Queries (T', h, d), keys and values (T, h, d) -> (T', C).

        `soft_keys` (B, K) weigh the keys inside the softmax; `heads` (B, h) multiply the heads'
        outputs.
        """
        if queries.shape is not None and keys.shape is not None:
            attended = _attend_together(query, key, value, queries, keys, soft_keys, heads)
        else:
            attended = _attend_one_by_one(query, key, value, queries, keys, soft_keys, heads)
        return self.proj(attended)

    def class_row(self, query: Tensor, key: Tensor, keys: Layout) -> Tensor:
        """Class queries (B, h, d), keys (T, h, d) -> (h, T) softmax over each image's own keys.

        One row per head and image, no N x N matrix; in float32 also under autocast, because a
        ranking hangs on it.
        """
        with torch.autocast(query.device.type, enabled=False):
            query = query.float() * query.shape[-1] ** -0.5
            key = key.float()
            if keys.shape is None:
                rows = zip(query, key.split(keys.lengths), strict=True)
                logits = [torch.einsum("hd,khd->hk", *image) for image in rows]
                return torch.cat([image.softmax(dim=-1) for image in logits], dim=1)
            batched = torch.einsum("bhd,bkhd->bhk", query, key.unflatten(0, keys.shape))
            if keys.key_mask is not None:
                batched = batched.masked_fill(~keys.key_mask.unsqueeze(1), float("-inf"))
            return batched.softmax(dim=-1).transpose(0, 1).flatten(1)

    def macs(self, keys: int, queries: int) -> int:
        """Multiply-adds for one image's rows; the softmax is not counted."""
        width = self.proj.in_features
        return 2 * (keys + queries) * width**2 + 2 * keys * queries * width

    def class_row_macs(self, keys: int, *, own_query: bool) -> int:
        """Multiply-adds of `class_row` for one image; `own_query`: projected for it alone."""
        width = self.proj.in_features
        return keys * width + (width**2 if own_query else 0)


def _attend_together(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: Layout,
    soft_keys: Tensor | None,
    heads: Tensor | None,
) -> Tensor:
    """Images with equally many rows are a plain batch."""
    assert queries.shape is not None and keys.shape is not None
    query = query.unflatten(0, queries.shape).transpose(1, 2)
    key, value = (each.unflatten(0, keys.shape).transpose(1, 2) for each in (key, value))
    mask = None if keys.key_mask is None else keys.key_mask[:, None, None, :]
    if soft_keys is not None:
        attended = soft_attention(query, key, value, soft_keys[:, None, None, :])
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if heads is not None:
        attended = attended * heads.to(attended.dtype)[:, :, None, None]
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: Layout,
    soft_keys: Tensor | None,
    heads: Tensor | None,
) -> Tensor:
    """A loop over the images: on CPU faster than padding and than jagged nested tensors."""
    images = []
    parts = zip(
        query.split(queries.lengths),
        key.split(keys.lengths),
        value.split(keys.lengths),
        strict=True,
    )
    for image, rows in enumerate(parts):
        at = slice(image, image + 1)
        own_mask = None if keys.key_mask is None else keys.key_mask[at]
        own_queries, own_keys = (Layout((len(each),), (1, len(each))) for each in rows[:2])
        images.append(
            _attend_together(
                *rows,
                own_queries,
                replace(own_keys, key_mask=own_mask),
                None if soft_keys is None else soft_keys[at],
                None if heads is None else heads[at],
            )
        )
    return torch.cat(images)


SOFT_EPS = 1e-6


def soft_attention(query: Tensor, key: Tensor, value: Tensor, soft_keys: Tensor) -> Tensor:
    """Attention whose keys weigh as much as a decision says: (B, h, T, d), factors (B, 1, 1, T).

    exp(a_ij) M_ij over its sum, with M_ij the key's factor and M_ii = 1; eps / T in the numerator
    and eps in the denominator (DynamicViT, Rao et al. 2021, eq. 10-11 and its released code). In
    float32; materialises the T x T matrix, for training only.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        num_keys = logits.shape[-1]
        itself = torch.eye(num_keys, dtype=torch.bool, device=logits.device)
        factor = torch.where(itself, 1.0, soft_keys.float())
        weights = (logits - logits.amax(dim=-1, keepdim=True)).exp() * factor
        total = weights.sum(dim=-1, keepdim=True) + SOFT_EPS
        return ((weights + SOFT_EPS / num_keys) / total @ value.float()).to(value.dtype)


def per_image(values: Tensor, layout: Layout) -> Tensor:
    """(B,) -> (T, 1): each row has the value of its image."""
    if layout.shape is not None:
        return values.repeat_interleave(layout.shape[1]).unsqueeze(1)
    lengths = torch.tensor(layout.lengths, device=values.device)
    rows = values.repeat_interleave(lengths, output_size=layout.num_rows)
    return rows.unsqueeze(1)


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
        """(T, C) rows and what a branch computed for them -> their sum, under stochastic depth."""
        if self.training and self.drop_path.rate:
            branch = self.drop_path(branch, layout)
        return rows + branch

    def macs(self, keys: int, queries: int | None = None, mlp: int | None = None) -> int:
        """Multiply-adds for one image with so many rows in each part. Default: as many as keys."""
        queries = keys if queries is None else queries
        return self.attn.macs(keys, queries) + self.mlp.macs(keys if mlp is None else mlp)
