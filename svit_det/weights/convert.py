"""Converts released weights, or a trained trunk of this project, for a network of this project.

The network is the one inside the backbone: it holds `trunk`, and beside it an adapter's parts.
Every weight of the file must be known, and every weight that this kind of file brings must be
found: nothing is half converted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.vit.position import resize_pos_embed
from svit_det.weights.deit import from_deit
from svit_det.weights.kinds import other_kinds
from svit_det.weights.mmdet import evo_vit_table, from_mmdet, svit_table, vit_adapter_table

KINDS = ("deit", "vit-adapter", "svit", "evo-vit", "trunk")
"""The kinds of files that `convert_weights` reads. `_brings` says what each kind brings."""

_GATES = "trunk.policy.gates."


def convert_weights(
    kind: str,
    given: Mapping[str, Tensor],
    net: nn.Module,
    *,
    pretrain_grid: tuple[int, int],
    num_interactions: int,
    num_extra: int,
    class_token: bool = False,
    source: str,
    target: str = "the network",
) -> dict[str, Tensor]:
    """The weights of `net` that a file of this kind brings, by their names in `net`.

    pretrain_grid: the grid that DeiT's position embedding is resized to. num_interactions,
    num_extra: the adapter's numbers; kinds without an adapter ignore them. class_token: with
    "deit", take its class token too. `source` names the file and `target` the network in messages.
    Raises InputError for a file that has too little, too much, or other shapes.
    """
    ours = {name: value.cpu() for name, value in net.state_dict().items()}
    sizes = {"num_interactions": num_interactions, "num_extra": num_extra}
    if kind == "deit":
        renamed = _deit(given, pretrain_grid, class_token=class_token, source=source)
    elif kind == "trunk":
        renamed = _trunk(given)
    elif kind == "vit-adapter":
        renamed = from_mmdet(given, vit_adapter_table(**sizes), source=source)
    elif kind == "evo-vit":
        renamed = from_mmdet(given, evo_vit_table(**sizes), source=source)
    elif kind == "svit":
        table = svit_table(**sizes, layers=_gated_layers(ours))
        # The original's files do not hold the statistics that thresholds are made of.
        fresh = {name: value for name, value in ours.items() if ".policy.budget." in name}
        renamed = {**fresh, **from_mmdet(given, table, source=source)}
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    wanted = [name for name in ours if _brings(kind, name, class_token=class_token)]
    _check_complete(renamed, ours, wanted, source=source, target=target)
    return {name: renamed[name].contiguous() for name in wanted}


def _deit(
    given: Mapping[str, Tensor], grid: tuple[int, int], *, class_token: bool, source: str
) -> dict[str, Tensor]:
    """DeiT under our names, its positions resized to `grid`."""
    renamed, side = from_deit(given, source=source, class_token=class_token)
    positions = renamed["trunk.pos_embed"]
    patches = resize_pos_embed(positions[:, 1:], (side, side), grid)
    renamed["trunk.pos_embed"] = torch.cat([positions[:, :1], patches], dim=1)
    return renamed


def _trunk(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under `trunk` of a model of this project, without the policy's."""
    inside = {name.partition(".trunk.")[2]: value for name, value in given.items()}
    trunk = {f"trunk.{name}": value for name, value in inside.items() if name}
    return {name: value for name, value in trunk.items() if _brings("trunk", name)}


def _gated_layers(ours: Mapping[str, Tensor]) -> list[int]:
    """The blocks that have a gate, first to last."""
    names = [name.removeprefix(_GATES) for name in ours if name.startswith(_GATES)]
    return list(dict.fromkeys(int(name.partition(".")[0]) for name in names))


def _brings(kind: str, name: str, *, class_token: bool = False) -> bool:
    """Whether a file of this kind brings this weight of our network."""
    if kind in ("svit", "evo-vit"):
        return True
    if name == "trunk.cls_token":
        return class_token
    return ".policy." not in name and (kind == "vit-adapter" or name.startswith("trunk."))


def _check_complete(
    renamed: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    wanted: Sequence[str],
    *,
    source: str,
    target: str,
) -> None:
    """Refuse a file that has too little, too much, or other shapes."""
    problems = {
        "is not in the file": [name for name in wanted if name not in renamed],
        f"is not in {target}": [name for name in renamed if name not in ours],
        f"has another shape in {target}": [
            name for name in wanted if name in renamed and renamed[name].shape != ours[name].shape
        ],
    }
    wrong = other_kinds({name: ours[name] for name in wanted}, renamed)
    if wrong and not any(problems.values()):
        raise InputError(f"{source}: {wrong[0]}, in {target}; nothing is cast.")
    for problem, names in problems.items():
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{source}: {names[0]}{more} {problem}.")
