"""The config keys that this project adds to detectron2's, made from declarations and checked.

Each key is declared once, with its default, meaning and values: in `keys.py`, in
`svit_det/config/keys.py`, or in the `Config` of a policy. The nodes, the checks and
docs/config_keys.md are all made from the declarations.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from svit_det.config.declared import Node, add_keys, group_at, nodes_of
from svit_det.config.policy import check_policies
from svit_det.config.trunk import vit_key
from svit_det.detection.keys import GROUPS


def declared_nodes() -> dict[str, Node]:
    """Every node with keys of this project, by its full name, in the order of the docs.

    Raises InputError where two policies declare the same key differently.
    """
    return nodes_of(GROUPS)


def add_svit_config(cfg: CfgNode) -> None:
    """Declare the keys of svit_det on detectron2's defaults."""
    add_keys(cfg, GROUPS)


def adapter_key(argument: str) -> str:
    """The config key of an argument of the adapter; some arguments are keys of its trunk."""
    if argument == "num_heads":
        return "MODEL.ADAPTER.DEFORM_NUM_HEADS"
    ours = argument.upper() in declared_nodes()["MODEL.ADAPTER"].keys
    return f"MODEL.ADAPTER.{argument.upper()}" if ours else vit_key(argument)


def check_values(cfg: CfgNode) -> None:
    """Raise InputError that names the key for a value of the wrong kind or outside its interval."""
    for name, group in GROUPS.items():
        group_at(cfg, name, group)
    check_policies(cfg.MODEL.TOKEN_POLICY)
