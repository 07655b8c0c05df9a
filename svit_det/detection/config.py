"""The config keys that this project adds to detectron2's: made from declarations, and read back.

Each key is declared once, with its default, meaning and values: in `keys.py`, or in the `Config` of
the policies that have it. The nodes, the checks and docs/config_keys.md all come from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from inspect import getdoc
from typing import Any, TypeVar

from detectron2.config import CfgNode

from svit_det.detection.keys import GROUPS, POLICY_NODE, PolicyKeys
from svit_det.errors import InputError, renamed_settings
from svit_det.policies import (
    POLICY_REGISTRY,
    WRAPPER_REGISTRY,
    PolicyConfig,
    TokenPolicy,
    TrunkShape,
    build_policy,
)
from svit_det.settings import Setting, Settings

Group = TypeVar("Group", bound=Settings)


@dataclass(frozen=True)
class Declared:
    """A key's default, and what it says about itself."""

    default: Any
    about: Setting


@dataclass(frozen=True)
class Node:
    """Keys that lie side by side."""

    doc: str
    keys: Mapping[str, Declared]
    """By the last part of the key."""


# ------------------------------------------------------------------ what there is


def declared_nodes() -> dict[str, Node]:
    """Every node with keys of ours, by its full name, in the order of the docs.

    Raises InputError where two policies declare the same key differently.
    """
    nodes: dict[str, Node] = {}
    for name, group in GROUPS.items():
        nodes[name] = Node(getdoc(group) or "", _declared(group, shared=None))
        if name == POLICY_NODE:
            nodes |= _policy_nodes(nodes[name])
    return nodes


def _policy_nodes(choice: Node) -> dict[str, Node]:
    """The policies' node, whose keys NAME and WRAPPERS are `choice`, and one node by policy."""
    nodes: dict[str, Node] = {}
    shared, owners = dict(choice.keys), dict.fromkeys(choice.keys, "every policy")
    for policy in POLICY_REGISTRY.names():
        kind = POLICY_REGISTRY.get(policy)
        for key, declared in _declared(kind.Config, shared=True).items():
            if shared.setdefault(key, declared) != declared:
                raise InputError(
                    f"{POLICY_NODE}.{key}: {policy} declares it unlike {owners[key]}; declare a "
                    "shared key once, in a Config that both have as a base."
                )
            owners.setdefault(key, policy)
        doc = f"Keys of {policy}. {getdoc(kind) or ''}".split("\n\n")[0].strip()
        own = Node(doc, _declared(kind.Config, shared=False))
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


def _declared(group: type[Settings], *, shared: bool | None) -> dict[str, Declared]:
    """The keys of a group; `shared` True or False: only the shared ones, or only the others."""
    defaults = group.defaults()
    return {
        field.upper(): Declared(defaults[field], about)
        for field, about in group.described().items()
        if shared is None or about.shared is shared
    }


def node_of(policy: str) -> str:
    """The full name of the node of a policy's own keys."""
    return f"{POLICY_NODE}.{POLICY_REGISTRY.get(policy).Config.node or policy.upper()}"


def add_svit_config(cfg: CfgNode) -> None:
    """Declare the keys of svit_det on detectron2's defaults."""
    for name, node in declared_nodes().items():
        place = reduce(_step_into, name.split("."), cfg)
        for key, declared in node.keys.items():
            place[key] = as_plain(declared.default)


def _step_into(node: CfgNode, name: str) -> CfgNode:
    if name not in node:
        node[name] = CfgNode()
    return node[name]


def as_plain(value: Any) -> Any:
    """Tuples as the lists that yaml has, at any depth."""
    return [as_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------ from argument to key


def vit_key(argument: str) -> str:
    """The config key of an argument of the trunk."""
    return f"MODEL.VIT.{argument.upper()}"


def adapter_key(argument: str) -> str:
    """The config key of an argument of the adapter; some are those of its trunk."""
    if argument == "num_heads":
        return "MODEL.ADAPTER.DEFORM_NUM_HEADS"
    ours = argument.upper() in declared_nodes()["MODEL.ADAPTER"].keys
    return f"MODEL.ADAPTER.{argument.upper()}" if ours else vit_key(argument)


def policy_key(policy: str) -> Callable[[str], str]:
    """From an argument of the policy to its config key."""

    def key(argument: str) -> str:
        about = POLICY_REGISTRY.get(policy).Config.described().get(argument)
        node = POLICY_NODE if about is None or about.shared else node_of(policy)
        return f"{node}.{argument.upper()}"

    return key


def _key_in(node: str) -> Callable[[str], str]:
    return lambda field: f"{node}.{field.upper()}"


# ------------------------------------------------------------------ reading a config


def check_values(cfg: CfgNode) -> None:
    """Raise InputError that names the key for a value of the wrong kind or outside its interval."""
    for name, group in GROUPS.items():
        _read(group, reduce(getattr, name.split("."), cfg), _key_in(name))
    for policy in POLICY_REGISTRY.names():
        _read_policy(policy, cfg.MODEL.TOKEN_POLICY)


def _read(group: type[Group], node: Any, key: Callable[[str], str]) -> Group:
    with renamed_settings(key):
        return group(**{field: getattr(node, field.upper()) for field in group.described()})


def _read_policy(policy: str, node: Any) -> PolicyConfig:
    """The settings of `policy` in the node MODEL.TOKEN_POLICY.

    A policy that was registered after the config was made finds no node and has its defaults.
    """
    kind = POLICY_REGISTRY.get(policy).Config
    own = getattr(node, node_of(policy).rpartition(".")[2], None)
    values = {}
    for field, about in kind.described().items():
        place = node if about.shared else own
        if hasattr(place, field.upper()):
            values[field] = getattr(place, field.upper())
    with renamed_settings(policy_key(policy)):
        return kind(**values)


def token_policy_config(node: Any) -> tuple[str, PolicyConfig, tuple[str, ...]]:
    """Name, settings and wrappers of the policy that the node MODEL.TOKEN_POLICY chooses.

    Raises InputError that names the key, also for a shared key that the policy does not use and
    that is not at its default.
    """
    choice = _read(PolicyKeys, node, _key_in(POLICY_NODE))
    with renamed_settings(_key_in(POLICY_NODE)):
        for wrapper in choice.wrappers:
            WRAPPER_REGISTRY.named(wrapper, "wrappers")
    for key, declared in unused_keys(choice.name).items():
        if as_plain(getattr(node, key)) != as_plain(declared.default):
            raise unused(key, choice.name)
    return choice.name, _read_policy(choice.name, node), choice.wrappers


def build_policy_from(node: Any, shape: TrunkShape) -> TokenPolicy:
    """The policy of the node MODEL.TOKEN_POLICY. Raises InputError that names the key."""
    name, config, wrappers = token_policy_config(node)
    with renamed_settings(policy_key(name)):
        return build_policy(name, shape=shape, config=config, wrappers=wrappers)


def unused_keys(policy: str) -> dict[str, Declared]:
    """The shared keys that other policies use and this one does not."""
    with renamed_settings(_key_in(POLICY_NODE)):
        kind = POLICY_REGISTRY.named(policy, "name")
    if kind.takes_any_key:
        return {}
    nodes = declared_nodes()
    used = {*_declared(PolicyKeys, shared=None), *_declared(kind.Config, shared=True)}
    return {key: value for key, value in nodes[POLICY_NODE].keys.items() if key not in used}


def unused(key: str, policy: str) -> InputError:
    """What to say about a shared key that is set although the policy does not use it."""
    users = [name for name in POLICY_REGISTRY.names() if key not in unused_keys(name)]
    users = [name for name in users if not POLICY_REGISTRY.get(name).takes_any_key]
    return InputError(
        f"{POLICY_NODE}.{key} is set, but {policy} does not use it: remove it, or choose a policy "
        f"that does ({', '.join(users)})."
    )
