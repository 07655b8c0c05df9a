"""A policy's two budgets from the same weights: a fixed count, and a count by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from svit_det.benchmark.arms import trunk_of, with_policy
from svit_det.benchmark.runtimes import DENSE, DYNAMIC, STATIC
from svit_det.config.declared import node_of
from svit_det.config.policy import build_policy_from
from svit_det.export.build import has_fixed_count
from svit_det.policies import POLICY_REGISTRY
from svit_det.policies.dense import Dense
from svit_det.vit import find_token_net

TOKENS_A_SIDE = 8
"""Side in tokens of the picture on which a policy is asked for its counts."""


def arms_by_budget(model: nn.Module, cfg: CfgNode) -> dict[str, nn.Module]:
    """`dense`, then `static` and `dynamic`, or only the budget that the policy has."""
    arms = {DENSE: with_policy(model, Dense())}
    found = {_budget_of(model): model}
    config = POLICY_REGISTRY.get(cfg.MODEL.TOKEN_POLICY.NAME).Config
    fixed = config.fixed_count
    for settings in (fixed, {key: config.defaults()[key] for key in fixed}):
        if settings:
            twin = with_settings(model, cfg, settings)
            found.setdefault(_budget_of(twin), twin)
    return arms | {budget: found[budget] for budget in (STATIC, DYNAMIC) if budget in found}


def with_settings(model: nn.Module, cfg: CfgNode, settings: Mapping[str, Any]) -> nn.Module:
    """A twin with the same weights, under the same policy with other values of its settings."""
    own = cfg.clone()
    name = own.MODEL.TOKEN_POLICY.NAME
    node = own.MODEL.TOKEN_POLICY[node_of(name).rpartition(".")[2]]
    for key, value in settings.items():
        node[key.upper()] = value
    trunk = trunk_of(model)
    policy = build_policy_from(own.MODEL.TOKEN_POLICY, trunk.shape)
    policy.load_state_dict(trunk.policy.state_dict())
    return with_policy(model, policy.to(cfg.MODEL.DEVICE))


def _budget_of(model: nn.Module) -> str:
    net = find_token_net(model)
    side = TOKENS_A_SIDE * net.trunk.patch_size
    return STATIC if has_fixed_count(net, (side, side)) else DYNAMIC
