"""Attention on rows: the projections of queries, keys and values, and the kernel between them.

T rows of all images together, C channels, h heads, d = C / h.
Source: DeiT (Touvron et al. 2021) and its names: a DeiT state dict fits as it is.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from svit_det.errors import InputError
from svit_det.vit.layout import Layout


class QKV(nn.Linear):
    """One linear layer for queries, keys and values; each of the three can be computed alone."""

    def forward(
        self, rows: Tensor, start: int = 0, stop: int = 3, channels: Tensor | None = None
    ) -> Tensor:
        """(T, C) -> (T, (stop - start) C): parts `start` to `stop` of queries, keys and values.

        `channels` (D,) lists the output channels to compute of each part: D instead of C.
        """
        if channels is None and (start, stop) == (0, 3):
            return super().forward(rows)
        width = self.in_features
        part = slice(start * width, stop * width)
        weight, bias = self.weight[part], self.bias[part]
        if channels is not None:
            weight = weight.view(-1, width, width).index_select(1, channels).flatten(0, 1)
            bias = bias.view(-1, width).index_select(1, channels).flatten()
        return F.linear(rows, weight, bias)


class Projection(nn.Linear):
    """A linear layer whose input may lack channels; missing channels count as zero."""

    def forward(self, rows: Tensor, channels: Tensor | None = None) -> Tensor:
        """(T, C) -> (T, C); or (T, D) -> (T, C), where `channels` (D,) lists the D channels."""
        if channels is None:
            return super().forward(rows)
        return F.linear(rows, self.weight.index_select(1, channels), self.bias)


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
        self.head_dim = embed_dim // num_heads
        self.qkv = QKV(embed_dim, 3 * embed_dim)
        self.proj = Projection(embed_dim, embed_dim)

    def project(
        self, rows: Tensor, start: int = 0, stop: int = 3, channels: Tensor | None = None
    ) -> Tensor:
        """(T, C) -> (T, stop - start, h, d): parts of queries (0), keys (1) and values (2).

        `channels`: compute only these channels, as `channels_of` gives them for some heads.
        """
        projected = self.qkv(rows, start, stop, channels=channels)
        return projected.unflatten(-1, (stop - start, -1, self.head_dim))

    def channels_of(self, heads: Tensor) -> Tensor:
        """(k,) heads -> (k d,) the places of their channels among all C."""
        within = torch.arange(self.head_dim, device=heads.device)
        return (heads.unsqueeze(1) * self.head_dim + within).flatten()

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
        channels: Tensor | None = None,
    ) -> Tensor:
        """Queries (T', h, d), keys and values (T, h, d) -> (T', C).

        `soft_keys` (B, K) weigh the keys inside the softmax; `heads` (B, h) multiply the heads'
        outputs. Where only some heads are given, `channels` (h d,) lists the places of their
        channels among all C; the output of the other heads is zero.
        """
        if queries.shape is not None and keys.shape is not None:
            attended = _attend_together(query, key, value, queries, keys, soft_keys, heads)
        else:
            attended = _attend_one_by_one(query, key, value, queries, keys, soft_keys, heads)
        return self.proj(attended, channels)

    def class_row(self, query: Tensor, key: Tensor, keys: Layout) -> Tensor:
        """Class queries (B, h, d), keys (T, h, d) -> (h, T) softmax over each image's own keys.

        The result is one row per head and image, without an N x N matrix. It is computed in float32
        also under autocast, because policies rank tokens by it.
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

    def macs(self, keys: int, queries: int, heads: int | None = None) -> int:
        """Multiply-adds for one image's rows in `heads` heads (None: all), without the softmax."""
        width = self.proj.in_features
        inner = width if heads is None else heads * self.head_dim
        return 2 * (keys + queries) * width * inner + 2 * keys * queries * inner

    def class_row_macs(self, keys: int, *, own_query: bool) -> int:
        """Multiply-adds of `class_row` for one image; `own_query`: a query projected for it too."""
        width = self.proj.in_features
        return keys * width + (width**2 if own_query else 0)

    def unused_query_macs(self, rows: int) -> int:
        """Multiply-adds of the queries of `rows` rows that then do not attend."""
        return rows * self.proj.in_features**2

    def all_keys_row_macs(self, size: int, *, own_query: bool) -> int:
        """Multiply-adds of `class_row` over all `size` tokens, and of projecting their keys."""
        return size * self.proj.in_features**2 + self.class_row_macs(size, own_query=own_query)


def _attend_together(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: Layout,
    soft_keys: Tensor | None,
    heads: Tensor | None,
) -> Tensor:
    """Attention of images with equally many rows, as one plain batch."""
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
    """Attention image by image. On CPUs a loop is faster than padding or jagged nested tensors."""
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
SOFT_AT_ONCE, SOFT_AT_A_TIME = 2**24, 2**22
"""Limits for the T x T matrices of a batch. Up to SOFT_AT_ONCE entries are made at once. Above
that, SOFT_AT_A_TIME entries are made at a time, and made again in the backward pass."""


def soft_attention(query: Tensor, key: Tensor, value: Tensor, soft_keys: Tensor) -> Tensor:
    """Attention that weighs each key by a factor: inputs (B, h, T, d), factors (B, 1, 1, T).

    The weight is exp(a_ij) M_ij over its sum, where M_ij is the factor of key j and M_ii = 1, with
    eps / T added to the numerator and eps to the denominator (DynamicViT, Rao et al. 2021, eq.
    10-11 and its released code). Computed in float32, for training only.
    """
    num_keys = key.shape[2]
    by_row = query.shape[0] * query.shape[1] * num_keys
    with torch.autocast(query.device.type, enabled=False):
        if by_row * num_keys <= SOFT_AT_ONCE:
            return _soft_rows(query, key, value, soft_keys, 0)
        parts = query.split(max(SOFT_AT_A_TIME // by_row, 1), dim=2)
        starts = accumulate((part.shape[2] for part in parts), initial=0)
        rows = [
            checkpoint(_soft_rows, part, key, value, soft_keys, start, use_reentrant=False)
            for part, start in zip(parts, starts)
        ]
        return torch.cat(rows, dim=2)


def _soft_rows(query: Tensor, key: Tensor, value: Tensor, soft_keys: Tensor, start: int) -> Tensor:
    """The rows of `soft_attention` from `start` on, as many as there are queries.

    The factors multiply the values instead of the T x T matrix, so that one copy of the matrix is
    enough: sum_j e_ij M_j v_j is a product of the matrix with M_j v_j, and the denominator is its
    product with M_j. The rest of a token's own entry, where the factor is 1, is added afterwards.
    """
    factor = soft_keys.float().transpose(-1, -2)  # (B, 1, T, 1)
    value_and_one = F.pad(value.float(), (0, 1), value=1.0)
    logits = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-1, -2)
    weights = logits.sub_(logits.detach().amax(dim=-1, keepdim=True)).exp_()
    sums = weights @ (factor * value_and_one)
    own = slice(start, start + query.shape[2])
    itself = weights.diagonal(start, -2, -1).unsqueeze(-1)
    sums = sums + itself * (1 - factor[:, :, own]) * value_and_one[:, :, own]
    floor = SOFT_EPS / key.shape[2] * value_and_one.sum(dim=2, keepdim=True)
    sums = sums + floor
    return (sums[..., :-1] / sums[..., -1:]).to(value.dtype)
