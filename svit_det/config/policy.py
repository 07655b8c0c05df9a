"""Building a policy from the node MODEL.TOKEN_POLICY, and refusing shared keys it does not use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svit_det.config.declared import (
    Declared,
    Node,
    as_plain,
    declared,
    key_in,
    node_of,
    policy_nodes,
    read_group,
)
from svit_det.config.keys import POLICY_NODE, PolicyKeys
from svit_det.errors import InputError, renamed_settings
from svit_det.policies import (
    POLICY_REGISTRY,
    WRAPPER_REGISTRY,
    PolicyConfig,
    TokenPolicy,
    TrunkShape,
    build_policy,
)


def policy_key(policy: str) -> Callable[[str], str]:
    """A function from an argument of the policy to its config key."""

    def key(argument: str) -> str:
        about = POLICY_REGISTRY.get(policy).Config.described().get(argument)
        node = POLICY_NODE if about is None or about.shared else node_of(policy)
        return f"{node}.{argument.upper()}"

    return key


def check_policies(node: Any) -> None:
    """Raise InputError that names the key for a wrong value of any policy, even if not chosen."""
    for policy in POLICY_REGISTRY.names():
        _read_policy(policy, node)


def _read_policy(policy: str, node: Any) -> PolicyConfig:
    """The settings of `policy` in the node MODEL.TOKEN_POLICY.

    A policy that was registered after the config was made has no node, and gets its defaults.
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

    Raises InputError that names the wrong key. A shared key that the policy does not use must be at
    its default.
    """
    choice = read_group(PolicyKeys, node, key_in(POLICY_NODE))
    with renamed_settings(key_in(POLICY_NODE)):
        for wrapper in choice.wrappers:
            WRAPPER_REGISTRY.named(wrapper, "wrappers")
    for key, each in unused_keys(choice.name).items():
        if as_plain(getattr(node, key)) != as_plain(each.default):
            raise unused(key, choice.name)
    return choice.name, _read_policy(choice.name, node), choice.wrappers


def build_policy_from(node: Any, shape: TrunkShape) -> TokenPolicy:
    """The policy of the node MODEL.TOKEN_POLICY. Raises InputError that names the key."""
    name, config, wrappers = token_policy_config(node)
    with renamed_settings(policy_key(name)):
        return build_policy(name, shape=shape, config=config, wrappers=wrappers)


def unused_keys(policy: str) -> dict[str, Declared]:
    """The shared keys that other policies use and this policy does not."""
    with renamed_settings(key_in(POLICY_NODE)):
        kind = POLICY_REGISTRY.named(policy, "name")
    if kind.takes_any_key:
        return {}
    nodes = policy_nodes(Node("", declared(PolicyKeys)))
    used = {*declared(PolicyKeys), *declared(kind.Config, shared=True)}
    return {key: value for key, value in nodes[POLICY_NODE].keys.items() if key not in used}


def unused(key: str, policy: str) -> InputError:
    """The error for a shared key that is set although the policy does not use it."""
    users = [name for name in POLICY_REGISTRY.names() if key not in unused_keys(name)]
    users = [name for name in users if not POLICY_REGISTRY.get(name).takes_any_key]
    return InputError(
        f"{POLICY_NODE}.{key} is set, but {policy} does not use it: remove it, or choose a policy "
        f"that does ({', '.join(users)})."
    )
