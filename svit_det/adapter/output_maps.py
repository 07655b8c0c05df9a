"""The output maps: each map of the side branch plus the trunk's resized map, normalised.

B images, C channels, H x W the trunk's grid; the levels are at half, one and two times the trunk's
stride, the finest map at a quarter of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.adapter.folding import scale_and_shift


def resize_map(feature_map: Tensor, stride: float) -> Tensor:
    """Resize a map bilinearly from stride 1 to `stride` patches: 1/4, 1/2, 1 or 2.

    At stride 2 each cell is the mean of four cells; at an odd border, of the cells inside the map.
    """
    if stride == 1:
        return feature_map
    if stride == 2:
        return F.avg_pool2d(feature_map, 2, ceil_mode=True)
    return F.interpolate(feature_map, scale_factor=1 / stride, mode="bilinear", align_corners=False)


def add_and_norm(level: Tensor, trunk_map: Tensor, stride: float, norm: nn.Module) -> Tensor:
    """norm(level + the trunk's map, resized to `stride` patches): (B, C, h, w)."""
    folded = _scale_and_shift(norm, trunk_map)
    if folded is None:
        return norm(level + resize_map(trunk_map, stride))
    # Resizing is linear and keeps constants, so that scale and shift are applied to the small map.
    scale, shift = (each.to(level.dtype).view(-1, 1, 1) for each in folded)
    return torch.addcmul(resize_map(trunk_map * scale + shift, stride), level, scale)


def finest_map(
    stem: tuple[nn.Conv2d, Tensor],
    up: nn.ConvTranspose2d,
    level: Tensor,
    trunk_map: Tensor,
    norm: nn.Module,
) -> Tensor:
    """norm(projection(stem) + up(level) + the trunk's map, four times as large).

    `stem`: the 1 x 1 projection and its input map (B, c, 4 H, 4 W); `level` (B, C, 2 H, 2 W).
    """
    project, stem_map = stem
    folded = _scale_and_shift(norm, trunk_map)
    if folded is None:
        return norm(project(stem_map) + up(level) + resize_map(trunk_map, 0.25))
    scale, shift = folded
    for layer in (project, up):
        if layer.bias is not None:
            shift = shift + scale * layer.bias
    dtype = level.dtype
    start = trunk_map * scale.to(dtype).view(-1, 1, 1) + shift.to(dtype).view(-1, 1, 1)
    total = resize_map(start, 0.25).contiguous(memory_format=torch.channels_last)
    # In channels last both layers are products of rows, and can be added in place.
    rows = total.permute(0, 2, 3, 1)
    add_upsampled(rows, level, up, scale)
    add_projected(rows, stem_map, project, scale)
    return total


def add_upsampled(rows: Tensor, level: Tensor, up: nn.ConvTranspose2d, scale: Tensor) -> None:
    """Add scale * up(level), without the bias, to `rows` (B, 4 H, 4 W, C) in place."""
    batch, height, width, channels = rows.shape
    doubled = level.permute(0, 2, 3, 1) @ (
        (up.weight * scale.view(1, -1, 1, 1)).to(rows.dtype).permute(0, 2, 3, 1).flatten(1)
    )
    blocks = rows.view(batch, height // 2, 2, width // 2, 2, channels)
    blocks.add_(doubled.unflatten(-1, (2, 2, channels)).transpose(2, 3))


def add_projected(rows: Tensor, stem_map: Tensor, project: nn.Conv2d, scale: Tensor) -> None:
    """Add scale * project(stem_map), without the bias, to `rows` (B, 4 H, 4 W, C) in place."""
    weight = (project.weight.flatten(1) * scale.unsqueeze(1)).to(rows.dtype)
    stem_rows = stem_map.permute(0, 2, 3, 1).flatten(0, 2)
    rows.view(-1, rows.shape[-1]).addmm_(stem_rows, weight.T)


def _scale_and_shift(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a norm that can be folded; None under autocast, which mixes dtypes."""
    return None if torch.is_autocast_enabled(like.device.type) else scale_and_shift(norm)


def level_maps(prior: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(B, M, C) cells of all levels -> (B, C, h, w) of each level; channels last on a CPU.

    All later maps have the same layout, because each change of layout costs a copy.
    """
    cells = prior.split([height * width for height, width in grids], dim=1)
    return [to_map(level, grid) for level, grid in zip(cells, grids, strict=True)]


def to_map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, C) -> (B, C, h, w), in the fastest memory layout for convolutions."""
    feature_map = rows.transpose(1, 2).unflatten(2, grid)
    return feature_map.contiguous(memory_format=layout_of(rows))


def layout_of(tensor: Tensor) -> torch.memory_format:
    """Channels last on a CPU, where it makes convolutions a third faster; else torch's default."""
    return torch.channels_last if tensor.is_cpu else torch.contiguous_format
