"""Weighted sums of bilinear samples: the plain way, and a faster one for CPUs.

B images, Q queries, S value cells of all levels together, L levels, P points, h heads, d channels
of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Grid = tuple[int, int]


def sample_deformable(
    values: Tensor, grids: Sequence[Grid], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples, in float32.

    values (B, S, h, d), locations (B, Q, h, L, P, 2), weights (B, Q, h, L, P) -> (B, Q, h * d).
    Locations are (x, y) in shares of a level's size; cells have their centres at +.5, and the map
    is surrounded by zeros. On a CPU, outside of exported and compiled graphs, the sums are made of
    table rows (`sample_rows`); otherwise by `grid_sample` (`sample_maps`).
    """
    values, locations, weights = values.float(), locations.float(), weights.float()
    if values.is_cpu and not torch.compiler.is_compiling():
        return sample_rows(values, grids, locations, weights)
    return sample_maps(values, grids, locations, weights)


def sample_maps(
    values: Tensor, grids: Sequence[Grid], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_deformable` as torch's `grid_sample` of each level's map, then a weighted sum."""
    batch, _, heads, channels = values.shape
    maps = values.split([height * width for height, width in grids], dim=1)
    places = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    shares = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)
    levels = []
    for feature_map, grid, place, share in zip(maps, grids, places, shares, strict=True):
        feature_map = feature_map.permute(0, 2, 3, 1).reshape(batch * heads, channels, *grid)
        sampled = F.grid_sample(feature_map, place, align_corners=False)  # (B * h, d, Q, P)
        levels.append((sampled * share).sum(dim=-1))
    total = sum(levels[1:], start=levels[0])
    return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)


def sample_rows(
    values: Tensor, grids: Sequence[Grid], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_deformable` as sums of rows: a sample is the sum of its four corners' rows.

    values (B, S, h, d) are a table of B * S * h rows of d channels. A query's 4 L P corners are one
    bag of rows with one factor each, so that only the sums are written to memory.
    """
    batch, cells, heads, _ = values.shape
    levels, points = weights.shape[3:]

    def by_sample(per_level: Sequence[int]) -> Tensor:
        # (1, h * L * P): long rows of constants, because products with short rows are slow.
        constants = torch.tensor(per_level, dtype=torch.int32).view(1, levels, 1)
        return constants.expand(heads, levels, points).reshape(1, -1)

    rows_of, columns_of = (by_sample(side) for side in zip(*grids, strict=True))
    ends = accumulate((height * width for height, width in grids), initial=0)
    starts = [start for start, _ in zip(ends, grids)]
    samples = locations.reshape(batch * locations.shape[1], -1, 2)
    left, right = _ends(samples[..., 0], columns_of)
    above, below = _ends(samples[..., 1], rows_of)

    of_head = torch.arange(heads, dtype=torch.int32).repeat_interleave(levels * points)
    of_image = torch.arange(batch, dtype=torch.int32) * cells
    first = of_image.repeat_interleave(locations.shape[1]).unsqueeze(1) + by_sample(starts)
    first = first * heads + of_head
    pitch = columns_of * heads
    of_rows = [first + index * pitch for index, _ in (above, below)]
    of_columns = [index * heads for index, _ in (left, right)]
    factors = weights.reshape(samples.shape[:2])
    by_row = [share * factors for _, share in (above, below)]
    by_column = [share for _, share in (left, right)]
    bag = (-1, 4 * levels * points)
    index = torch.stack([row + column for row in of_rows for column in of_columns], dim=-1)
    share = torch.stack([row * column for row in by_row for column in by_column], dim=-1)
    sums = RowSums.apply(values.flatten(0, 2), index.view(bag), share.view(bag))
    return sums.view(batch, locations.shape[1], -1)


def _ends(place: Tensor, size: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places (T, n) in shares of `size` (1, n) -> the cells on both sides, each with its share.

    A cell outside of the map gets the share 0 and the index of a cell inside.
    """
    centred = place * size - 0.5
    low = centred.detach().floor()
    beyond = centred - low
    lower = low.int()
    ends = []
    for cell, share in ((lower, 1 - beyond), (lower + 1, beyond)):
        inside = cell.clamp(min=0).minimum(size - 1)
        ends.append((inside, share * (inside == cell)))
    return ends[0], ends[1]


class RowSums(torch.autograd.Function):
    """Sums of table rows with factors: `embedding_bag`, with a faster backward pass.

    table (R, d), index and factor (T, k) -> (T, d). The gradient of a table row is again a sum of
    rows: of the gradients of the sums that it was part of. torch's own backward pass adds these one
    at a time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, factor: Tensor) -> Tensor:
        """Sum over each bag."""
        ctx.save_for_backward(table, index, factor)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """The gradients of the table and of the factors."""
        table, index, factor = ctx.saved_tensors
        grad = grad.contiguous()
        of_table = of_factor = None
        if ctx.needs_input_grad[0]:
            of_table = _sum_back(grad, index, factor, len(table))
        if ctx.needs_input_grad[2]:
            bags, size = index.shape
            starts = torch.arange(0, bags * size, size, dtype=index.dtype)
            of_bag = torch.arange(bags, dtype=index.dtype).repeat_interleave(size)
            product = torch.ops.aten._embedding_bag_per_sample_weights_backward
            of_factor = product(grad, table, index.flatten(), starts, of_bag, 0).view_as(factor)
        return of_table, None, of_factor


def _sum_back(grad: Tensor, index: Tensor, factor: Tensor, num_rows: int) -> Tensor:
    """(T, d) gradients of the sums -> (R, d) gradients of the table's rows."""
    rows, order = index.flatten().sort()
    ends = F.pad(torch.bincount(rows, minlength=num_rows).cumsum(0), (1, 0)).int()
    order = order.int()
    return F.embedding_bag(
        order // index.shape[1],
        grad,
        ends,
        mode="sum",
        per_sample_weights=factor.flatten().index_select(0, order),
        include_last_offset=True,
    )
