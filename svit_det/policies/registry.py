"""Policies and wrappers by name, and building one from plain settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fvcore.common.registry import Registry

from svit_det.errors import InputError
from svit_det.policies.base import PolicyConfig, TokenPolicy, TrunkShape


class PolicyRegistry(Registry):
    """fvcore's Registry, with a plain error message for a name that is taken or unknown."""

    def _do_register(self, name: str, obj: Any) -> None:
        if name in self:
            raise InputError(
                f"A policy or wrapper called '{name}' is registered already, as "
                f"{self.get(name).__module__}.{name}; give the new one another name."
            )
        super()._do_register(name, obj)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(name for name, _ in self)

    def named(self, name: str, setting: str) -> type[TokenPolicy]:
        """The class of this name. Raises InputError that names `setting` for an unknown name."""
        if name not in self:
            raise InputError(
                f"'{name}' is not registered; there are {', '.join(self.names())}.", setting=setting
            )
        return self.get(name)


POLICY_REGISTRY = PolicyRegistry("TOKEN_POLICY")
POLICY_REGISTRY.__doc__ = "Token policies by the name that MODEL.TOKEN_POLICY.NAME gives them."

WRAPPER_REGISTRY = PolicyRegistry("TOKEN_POLICY_WRAPPER")
WRAPPER_REGISTRY.__doc__ = "Policies around a policy, by the names in MODEL.TOKEN_POLICY.WRAPPERS."


def build_policy(
    name: str,
    *,
    shape: TrunkShape,
    config: PolicyConfig | None = None,
    wrappers: Iterable[str] = (),
) -> TokenPolicy:
    """The policy `name` for a trunk of `shape`, `wrappers` around it, innermost first.

    Raises InputError for a name that is not registered, a wrapper named twice, and settings that
    the policy or a wrapper cannot use.
    """
    wrappers = list(wrappers)
    if len(set(wrappers)) != len(wrappers):
        raise InputError(f"{wrappers} names one twice.", setting="wrappers")
    kind = POLICY_REGISTRY.named(name, "name")
    policy = kind(config=kind.Config() if config is None else config, shape=shape)
    for wrapper in wrappers:
        around: Any = WRAPPER_REGISTRY.named(wrapper, "wrappers")
        policy = around(policy)
    return policy
