"""DeiT's layers on packed rows: a row is a token, an image is a run of rows.

T packed tokens of all images together, C channels, h heads, d = C / h.
Source: DeiT (Touvron et al. 2021) and its names: a DeiT state dict fits as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Queries:
    """The rows that ask, where not all that answer do."""

    rows: Tensor
    """(T',) their positions among the packed rows, image by image."""
    lengths: tuple[int, ...]
    """How many per image, summing to T'."""


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
        self,
        rows: Tensor,
        segments: Segments,
        *,
        key_value: Tensor | None = None,
        queries: Queries | None = None,
    ) -> Tensor:
        """(T, C) -> (T, C), or (T', C) where only the T' rows of `queries` ask.

        `key_value` are the keys and values of `rows` where `keys_values` made them already.
        """
        if key_value is None:
            query, key, value = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        else:
            query = self._project(rows if queries is None else rows[queries.rows], 0, 1)[:, 0]
            key, value = key_value.unbind(1)
        asking = segments.lengths if queries is None else queries.lengths
        if segments.uniform and all(length == asking[0] for length in asking):
            attended = self._attend_together(query, key, value, segments)
        else:
            attended = self._attend_one_by_one(query, key, value, asking, segments.lengths)
        return self.proj(attended)

    def keys_values(self, rows: Tensor) -> Tensor:
        """(T, C) -> (T, 2, h, d): what `class_row` and then `forward` need, before any query."""
        return self._project(rows, 1, 3)

    def _project(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """Of queries, keys, values parts `start` to `stop`: (T, C) -> (T, stop - start, h, d)."""
        width = rows.shape[1]
        weight = self.qkv.weight[start * width : stop * width]
        bias = self.qkv.bias[start * width : stop * width]
        return F.linear(rows, weight, bias).unflatten(-1, (stop - start, self.num_heads, -1))

    def class_row(
        self, rows: Tensor, key_value: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """What each image's first row looks at, and how long each row's value is.

        (weights (h, T) softmax over the image's own rows, value_norm (T,)): one row per head and
        image, no N x N matrix.
        """
        firsts, end = [], 0
        for length in segments.lengths:
            firsts.append(rows[end])
            end += length
        query = self._project(torch.stack(firsts), 0, 1)[:, 0].float()
        key, value = key_value.float().unbind(1)
        scale = query.shape[-1] ** -0.5
        weights = []
        for image, keys in enumerate(key.split(segments.lengths)):
            # Not a matrix product, which autocast would round; a ranking hangs on it.
            logits = (query[image] * scale * keys).sum(dim=-1).T
            if segments.key_mask is not None:
                logits = logits.masked_fill(~segments.key_mask[image], float("-inf"))
            weights.append(logits.softmax(dim=-1))
        return torch.cat(weights, dim=1), value.flatten(1).norm(dim=1)

    def _attend_together(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments
    ) -> Tensor:
        """Images of equal length are a plain batch: (T', h, d), (T, h, d) twice -> (T', C)."""
        num_images = len(segments.lengths)
        query, key, value = (
            each.unflatten(0, (num_images, -1)).transpose(1, 2) for each in (query, key, value)
        )
        mask = segments.key_mask
        if mask is not None:
            mask = mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)

    def _attend_one_by_one(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        asking: tuple[int, ...],
        answering: tuple[int, ...],
    ) -> Tensor:
        """A loop over the images: on CPU faster than padding and than jagged nested tensors."""
        images = []
        parts = (query.split(asking), key.split(answering), value.split(answering))
        for image in zip(*parts, strict=True):
            if len(image[0]):
                heads = (each.transpose(0, 1).unsqueeze(0) for each in image)
                attended = F.scaled_dot_product_attention(*heads)
                images.append(attended[0].transpose(0, 1).flatten(1))
        return torch.cat(images)


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
