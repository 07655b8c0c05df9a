"""Makes nodes and keys from the groups that declare them, and reads groups back from a config.

Each key is declared once, with its default, meaning and values: in a task's groups of settings, or
in the `Config` of a policy. The nodes, the checks and the tables are made from the declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from inspect import getdoc
from typing import Any, TypeVar

from fvcore.common.config import CfgNode

from svit_det.config.keys import POLICY_NODE
from svit_det.errors import InputError, renamed_settings
from svit_det.policies import POLICY_REGISTRY
from svit_det.settings import Setting, Settings

Group = TypeVar("Group", bound=Settings)
Groups = Mapping[str, type[Settings]]
"""The groups by node, in the order in which the docs list the nodes."""


@dataclass(frozen=True)
class Declared:
    """A key's default and its declared meaning."""

    default: Any
    about: Setting


@dataclass(frozen=True)
class Node:
    """The keys of one node."""

    doc: str
    keys: Mapping[str, Declared]
    """The declarations by the last part of the key."""


def nodes_of(groups: Groups) -> dict[str, Node]:
    """Every node with keys of this project, by full name; the policies' nodes follow POLICY_NODE.

    Raises InputError where two policies declare the same key differently.
    """
    nodes: dict[str, Node] = {}
    for name, group in groups.items():
        nodes[name] = Node(getdoc(group) or "", declared(group))
        if name == POLICY_NODE:
            nodes |= policy_nodes(nodes[name])
    return nodes


def policy_nodes(choice: Node) -> dict[str, Node]:
    """POLICY_NODE with the keys NAME and WRAPPERS of `choice`, and one node for each policy."""
    nodes: dict[str, Node] = {}
    shared, owners = dict(choice.keys), dict.fromkeys(choice.keys, "every policy")
    for policy in POLICY_REGISTRY.names():
        kind = POLICY_REGISTRY.get(policy)
        for key, each in declared(kind.Config, shared=True).items():
            if shared.setdefault(key, each) != each:
                raise InputError(
                    f"{POLICY_NODE}.{key}: {policy} declares it unlike {owners[key]}; declare a "
                    "shared key once, in a Config that both have as a base."
                )
            owners.setdefault(key, policy)
        doc = f"Keys of {policy}. {getdoc(kind) or ''}".split("\n\n")[0].strip()
        own = Node(doc, declared(kind.Config, shared=False))
        if not own.keys:
            continue
        name = node_of(policy)
        if nodes.setdefault(name, own).keys != own.keys:
            raise InputError(
                f"{name}: {policy} declares it unlike another policy; name one of the nodes "
                "differently, with `node` in its Config."
            )
    taken = [name for name in nodes if name.removeprefix(f"{POLICY_NODE}.") in shared]
    if taken:
        raise InputError(f"{taken[0]}: both a shared key and the node of a policy.")
    return {POLICY_NODE: Node(choice.doc, shared), **nodes}


def declared(group: type[Settings], *, shared: bool | None = None) -> dict[str, Declared]:
    """The keys of a group; `shared` True: only the shared keys, False: only the other keys."""
    defaults = group.defaults()
    return {
        field.upper(): Declared(defaults[field], about)
        for field, about in group.described().items()
        if shared is None or about.shared is shared
    }


def node_of(policy: str) -> str:
    """The full name of the node of a policy's own keys."""
    return f"{POLICY_NODE}.{POLICY_REGISTRY.get(policy).Config.node or policy.upper()}"


def add_keys(cfg: CfgNode, groups: Groups) -> None:
    """Declare the keys of `groups`, and of every policy, on `cfg`."""
    for name, node in nodes_of(groups).items():
        place = reduce(_step_into, name.split("."), cfg)
        for key, each in node.keys.items():
            place[key] = as_plain(each.default)


def _step_into(node: CfgNode, name: str) -> CfgNode:
    if name not in node:
        node[name] = type(node)()
    return node[name]


def as_plain(value: Any) -> Any:
    """The value with every tuple, at any depth, as a list: yaml has no tuples."""
    return [as_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def key_in(node: str) -> Callable[[str], str]:
    """A function from a field of the group of `node` to its config key."""
    return lambda field: f"{node}.{field.upper()}"


def read_group(group: type[Group], node: Any, key: Callable[[str], str]) -> Group:
    """The settings of a node. Raises InputError that names the key."""
    with renamed_settings(key):
        return group(**{field: getattr(node, field.upper()) for field in group.described()})


def group_at(cfg: Any, name: str, group: type[Group]) -> Group:
    """The settings of the node of this full name. Raises InputError that names the key."""
    return read_group(group, reduce(getattr, name.split("."), cfg), key_in(name))
