"""Released classifiers to our TokenClassifier and back: a table of names for each kind of file.

Sources: state dicts of DeiT with timm's names, which the released classifiers of EViT, ATS and
A-ViT share because these methods add no weights; and state dicts of the released code of SViT,
DynamicViT and Evo-ViT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.weights.kinds import check_kinds
from svit_det.weights.mmdet import join_qkv
from svit_det.weights.rename import rename

CLASSIFIERS = ("deit", "svit", "evit", "ats", "evo-vit", "dynamic-vit", "a-vit")
"""The kinds of files."""

_AROUND = {
    "cls_token": "trunk.cls_token",
    "pos_embed": "trunk.pos_embed",
    "patch_embed.proj.{}": "trunk.patch_embed.proj.{}",
    "norm.{}": "norm.{}",
    "head.{}": "head.{}",
}
_TIMM = {
    "blocks.{}.{}.{}": "trunk.blocks.{}.{}.{}",
    "blocks.{}.{}.{}.{}": "trunk.blocks.{}.{}.{}.{}",
}
_TORCH = {
    f"blocks.{{}}.TransformerEncoderLayer.{theirs}": f"trunk.blocks.{{}}.{ours}"
    for theirs, ours in {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.{}": "attn.proj.{}",
        "linear1.{}": "mlp.fc1.{}",
        "linear2.{}": "mlp.fc2.{}",
        "norm1.{}": "norm1.{}",
        "norm2.{}": "norm2.{}",
    }.items()
}
_LISTS = {
    "qkvs.{}.{}": "trunk.blocks.{}.attn.qkv.{}",
    "projs.{}.{}": "trunk.blocks.{}.attn.proj.{}",
    "norms.{}.{}": "trunk.blocks.{}.norm1.{}",
    "blocks.{}.norm2.{}": "trunk.blocks.{}.norm2.{}",
    "blocks.{}.mlp.{}.{}": "trunk.blocks.{}.mlp.{}.{}",
    "norm_cls.{}": "class_norm.{}",
    "head_cls.{}": "class_head.{}",
}
# The places of layers in the released predictor's sequentials, and our names of these layers.
_PREDICTOR = {
    "in_conv.0": "norm",
    "in_conv.1": "fc_in",
    "out_conv.0": "fc1",
    "out_conv.2": "fc2",
    "out_conv.4": "fc3",
}


_ITS_OWN = {
    "svit": "trunk.policy.gates.",
    "dynamic-vit": "trunk.policy.predictors.",
    "evo-vit": "class_head.",
}
"""The beginning of the names that only a model of this kind has, in our names."""


def classifier_table(kind: str, layers: Sequence[int] = ()) -> dict[str, str]:
    """Released names -> our names; `layers` are the blocks that have a gate or a predictor."""
    table = dict(_AROUND)
    if kind == "svit":
        table |= _TORCH
        for number, layer in enumerate(layers):
            old, new = f"selective_modules.{number}", f"trunk.policy.gates.{layer}"
            table |= {
                f"{old}.norm.{{}}": f"{new}.norm.{{}}",
                f"{old}.mlp.{{}}.{{}}": f"{new}.{{}}.{{}}",
            }
    elif kind == "evo-vit":
        table |= _LISTS
    elif kind in CLASSIFIERS:
        table |= _TIMM
        if kind == "dynamic-vit":
            for number, layer in enumerate(layers):
                for old, new in _PREDICTOR.items():
                    theirs = f"score_predictor.{number}.{old}.{{}}"
                    table[theirs] = f"trunk.policy.predictors.{layer}.{new}.{{}}"
    else:
        raise ValueError(f"kind must be one of {', '.join(CLASSIFIERS)}, not {kind!r}.")
    return table


def from_released(
    kind: str, given: Mapping[str, Tensor], model: nn.Module, *, source: str
) -> dict[str, Tensor]:
    """All weights of `model` from a released file of this kind.

    No released file holds the statistics (buffers); they are taken from `model`. Raises InputError
    for a file that has too little, too much, or other shapes.
    """
    ours = {name: value.cpu() for name, value in model.state_dict().items()}
    weights = join_qkv(given, source=source) if kind == "evo-vit" else dict(given)
    renamed = rename(weights, _table_for(kind, ours), source=source)
    learned = {name for name, _ in model.named_parameters()}
    for name in learned:
        if name not in renamed:
            raise InputError(f"{source}: {name} of the model is not in the file.")
        if renamed[name].shape != ours[name].shape:
            raise InputError(
                f"{source}: {name} is {tuple(renamed[name].shape)}, in the model of --config-file "
                f"{tuple(ours[name].shape)}."
            )
    odd = sorted(set(renamed) - learned)
    if odd:
        raise InputError(f"{source}: {odd[0]} is not in the model of --config-file.")
    check_kinds(ours, renamed, source=source)
    return {name: renamed.get(name, value).contiguous() for name, value in ours.items()}


def to_released(kind: str, model: nn.Module, *, source: str) -> dict[str, Tensor]:
    """The weights of `model` under the released names of this kind, without its statistics.

    Raises InputError for weights that a file of this kind has no names for.
    """
    weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
    place = _ITS_OWN.get(kind)
    if place is not None and not any(name.startswith(place) for name in weights):
        raise InputError(
            f"{source}: its model has no weights under {place[:-1]}, which files of the kind "
            f"{kind} hold; choose another --from."
        )
    back = {ours: theirs for theirs, ours in _table_for(kind, weights).items()}
    renamed = rename(weights, back, source=source)
    return split_qkv(renamed) if kind == "evo-vit" else renamed


def split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `join_qkv`."""
    split = {}
    for name, value in weights.items():
        if not name.startswith("qkvs."):
            split[name] = value
            continue
        _, block, end = name.split(".")
        queries_and_keys = 2 * len(value) // 3
        split[f"qks.{block}.qk.{end}"] = value[:queries_and_keys].clone()
        split[f"vs.{block}.v.{end}"] = value[queries_and_keys:].clone()
    return split


def _table_for(kind: str, ours: Mapping[str, Tensor]) -> dict[str, str]:
    place = _ITS_OWN[kind] if kind in ("svit", "dynamic-vit") else "nowhere."
    numbers = [name.removeprefix(place).split(".")[0] for name in ours if name.startswith(place)]
    return classifier_table(kind, [int(number) for number in dict.fromkeys(numbers)])
