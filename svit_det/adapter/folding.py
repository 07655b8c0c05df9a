"""Folding frozen batch norms into the linear layers beside them, for inference.

A batch norm in evaluation is a scale and a shift of each channel. Both can be folded into the
weights of the convolution before it: the sums are the same, and one pass over the map is saved.
Where a gradient is wanted the norm stays separate.

C channels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The scale (C,) and the shift (C,) of a batch norm in evaluation without gradient; else None.

    Both are in float32, because the square root of a variance in half precision is coarse.
    """
    if norm.training or torch.is_grad_enabled() or getattr(norm, "running_mean", None) is None:
        return None
    mean, variance, weight, bias = (
        cast(Tensor, getattr(norm, name)).float()
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = weight * (variance + cast(float, norm.eps)).rsqrt()
    return scale, bias - mean * scale


def run_folded(layers: nn.Sequential, feature_map: Tensor) -> Tensor:
    """The output of `layers`; each batch norm that can be folded is folded into its convolution."""
    remaining = list(layers)
    while remaining:
        layer = remaining.pop(0)
        is_pair = isinstance(layer, nn.Conv2d) and remaining
        folded = scale_and_shift(remaining[0]) if is_pair else None
        if folded is None:
            feature_map = layer(feature_map)
            continue
        remaining.pop(0)
        feature_map = _convolve(cast(nn.Conv2d, layer), feature_map, *folded)
    return feature_map


def _convolve(layer: nn.Conv2d, feature_map: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * layer(feature_map) + shift."""
    dtype = layer.weight.dtype
    weight = (layer.weight * scale.view(-1, 1, 1, 1)).to(dtype)
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return F.conv2d(feature_map, weight, bias.to(dtype), layer.stride, layer.padding)
