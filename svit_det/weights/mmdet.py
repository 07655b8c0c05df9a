"""ViT-Adapter, SViT and Evo-ViT, by the names of mmdetection projects, for our ViTAdapter.

Source: state dicts of the released uzh-rpg/svit backbones. In a detector's checkpoint these have
`backbone.` before every name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.weights.rename import Table, rename

LOOK = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")


def _extractor(old: str, new: str) -> dict[str, str]:
    return {
        f"{old}.{part}.{{}}": f"{new}.{part}.{{}}"
        for part in ("query_norm", "feat_norm", "ffn_norm", *(f"attn.{name}" for name in LOOK))
    } | {
        f"{old}.ffn.fc1.{{}}": f"{new}.ffn.fc1.{{}}",
        f"{old}.ffn.dwconv.dwconv.{{}}": f"{new}.ffn.dwconv.{{}}",
        f"{old}.ffn.fc2.{{}}": f"{new}.ffn.fc2.{{}}",
    }


def _adapter(num_interactions: int, num_extra: int) -> dict[str, str]:
    table = {
        "level_embed": "level_embed",
        "spm.{*}": "spatial_prior.{*}",
        "up.{}": "up.{}",
        "pos_embed": "trunk.pos_embed",
        "patch_embed.proj.{}": "trunk.patch_embed.proj.{}",
        "interactions.{}.injector.{*}": "injectors.{}.{*}",
    }
    table |= {f"norm{level}.{{}}": f"norms.{level - 1}.{{}}" for level in (1, 2, 3, 4)}
    table |= _extractor("interactions.{}.extractor", "extractors.{}")
    for extra in range(num_extra):
        old = f"interactions.{num_interactions - 1}.extra_extractors.{extra}"
        table |= _extractor(old, f"extractors.{num_interactions + extra}")
    return table


def vit_adapter_table(*, num_interactions: int, num_extra: int) -> Table:
    """The dense backbone, whose blocks have timm's names."""
    return _adapter(num_interactions, num_extra) | {
        "blocks.{}.{}.{}": "trunk.blocks.{}.{}.{}",
        "blocks.{}.{}.{}.{}": "trunk.blocks.{}.{}.{}.{}",
    }


def svit_table(*, num_interactions: int, num_extra: int, layers: Sequence[int]) -> Table:
    """SViT's backbone: PyTorch's names in the blocks, and one gate for each of `layers`."""
    block, ours = "blocks.{}.TransformerEncoderLayer", "trunk.blocks.{}"
    table = _adapter(num_interactions, num_extra) | {
        f"{block}.self_attn.in_proj_weight": f"{ours}.attn.qkv.weight",
        f"{block}.self_attn.in_proj_bias": f"{ours}.attn.qkv.bias",
        f"{block}.self_attn.out_proj.{{}}": f"{ours}.attn.proj.{{}}",
        f"{block}.linear1.{{}}": f"{ours}.mlp.fc1.{{}}",
        f"{block}.linear2.{{}}": f"{ours}.mlp.fc2.{{}}",
        f"{block}.norm1.{{}}": f"{ours}.norm1.{{}}",
        f"{block}.norm2.{{}}": f"{ours}.norm2.{{}}",
    }
    for number, layer in enumerate(layers):
        old, new = f"selective_modules.{number}", f"trunk.policy.gates.{layer}"
        table[f"{old}.norm.{{}}"] = f"{new}.norm.{{}}"
        table[f"{old}.mlp.{{}}.{{}}"] = f"{new}.{{}}.{{}}"
    return table


def evo_vit_table(*, num_interactions: int, num_extra: int) -> Table:
    """Evo-ViT's backbone for dense tasks; its blocks are lists of parts, see `join_qkv`."""
    ours = "trunk.blocks.{}"
    return _adapter(num_interactions, num_extra) | {
        "cls_token": "trunk.cls_token",
        "qkvs.{}.{}": f"{ours}.attn.qkv.{{}}",
        "projs.{}.{}": f"{ours}.attn.proj.{{}}",
        "norms.{}.{}": f"{ours}.norm1.{{}}",
        "blocks.{}.norm2.{}": f"{ours}.norm2.{{}}",
        "blocks.{}.mlp.{}.{}": f"{ours}.mlp.{{}}.{{}}",
    }


def join_qkv(weights: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Join Evo-ViT's `qks.{}.qk` (2 C rows) and `vs.{}.v` (C rows) to one `qkvs.{}` (3 C rows).

    Raises InputError where one of the two is missing.
    """
    joined = {}
    for name, value in weights.items():
        list_name, _, rest = name.partition(".")
        if list_name == "vs":
            partner = "qks." + rest.replace(".v.", ".qk.")
            if partner not in weights:
                raise InputError(f"{source}: {name} without {partner}.")
            above = weights[partner]
            if not value.dim() or above.shape[1:] != value.shape[1:] or above.dtype != value.dtype:
                raise InputError(f"{source}: {partner} and {name} cannot stand above each other.")
            joined["qkvs." + rest.replace(".v.", ".")] = torch.cat([above, value])
        elif list_name == "qks":
            partner = "vs." + rest.replace(".qk.", ".v.")
            if partner not in weights:
                raise InputError(f"{source}: {name} without {partner}.")
        else:
            joined[name] = value
    return joined


def backbone_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a detector's state dict, without its prefix; a bare backbone as it is."""
    inside = {
        name.removeprefix("backbone."): value
        for name, value in weights.items()
        if name.startswith("backbone.")
    }
    return inside or dict(weights)


def from_mmdet(weights: Mapping[str, Tensor], table: Table, *, source: str) -> dict[str, Tensor]:
    """The weights by our names, without heads and neck, which are built differently here."""
    backbone = join_qkv(backbone_of(weights), source=source)
    return rename(backbone, table, source=source)
