"""Models under every policy from the same weights, random or trained."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from torch import Tensor, nn

from svit_det.benchmark import arms as compared
from svit_det.benchmark.decisions import keeps_everyone
from svit_det.cli.benchmark_budgets import arms_by_budget
from svit_det.config.policy import build_policy_from, token_policy_config
from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.policies import POLICY_REGISTRY, TrunkShape
from svit_det.policies.dense import Dense

DEFAULT_POLICY = "SViT"
"""The policy that a dense config is compared with."""
DENSE, DENSE_CLASS, PRUNED = "dense", "dense_class_token", "pruned"
"""Names of arms. In a run of several policies, a policy's arm has the policy's name."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A policy, and the dense model of the same weights that it is compared with."""

    cfg: CfgNode
    dense: str
    pruned: str

    @property
    def policy(self) -> str:
        """The policy's registered name."""
        return self.cfg.MODEL.TOKEN_POLICY.NAME

    @property
    def arms(self) -> dict[str, str]:
        """The names of the pair's dense and pruned arms, under `DENSE` and `PRUNED`."""
        return {DENSE: self.dense, PRUNED: self.pruned}


def read_configs(args: argparse.Namespace) -> list[CfgNode]:
    """The config of each policy, without wrappers; SViT takes the place of Dense.

    SViT runs in `quota` mode. Mode and wrappers stay as they were trained where the overrides name
    the weights of the policy.
    """
    device = [] if args.device is None else ["MODEL.DEVICE", args.device]
    first = load_config(args.config_file, [*args.opts, *device])
    own = first.MODEL.TOKEN_POLICY.NAME
    is_dense = keeps_everyone(POLICY_REGISTRY.named(own, "MODEL.TOKEN_POLICY.NAME"))
    trained = names_weights(args) and not args.policies and not is_dense
    configs = []
    for name in args.policies or [DEFAULT_POLICY if is_dense else own]:
        cfg = first.clone()
        policy = cfg.MODEL.TOKEN_POLICY
        policy.NAME = name
        if not trained:
            policy.WRAPPERS, policy.SVIT.MODE = [], "quota"
        if args.keep_ratios:
            policy.KEEP_RATIOS = args.keep_ratios
        token_policy_config(policy)
        configs.append(cfg)
    return configs


def names_weights(args: argparse.Namespace) -> bool:
    """Whether the command line names trained weights; the file that a yaml names may be missing."""
    return "MODEL.WEIGHTS" in args.opts[::2]


def build_arms(
    configs: Sequence[CfgNode], args: argparse.Namespace, *, whole: bool
) -> tuple[dict[str, nn.Module], list[Pair]]:
    """Models by arm, of the same weights, in float32; and the pairs that are compared.

    whole: build whole detectors; else their backbones alone, which have the same weights.
    """
    torch.manual_seed(0)
    if args.policies:
        return _arms_of_policies(configs, args, whole)
    (cfg,) = configs
    model = _fresh(cfg, whole)
    before = copy.deepcopy(compared.trunk_of(model).policy.state_dict())
    if names_weights(args):
        TokenCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    _settle_unless_loaded(model, before)
    if args.runtime:
        arms = arms_by_budget(model.eval(), cfg)
        return arms, [Pair(cfg=cfg, dense=DENSE, pruned=list(arms)[1])]
    return compared.policy_arms(model), [Pair(cfg=cfg, dense=DENSE, pruned=PRUNED)]


def _fresh(cfg: CfgNode, whole: bool) -> nn.Module:
    model = build_model(cfg) if whole else build_backbone(cfg)
    return model.to(cfg.MODEL.DEVICE).eval()


def _settle_unless_loaded(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Settle a policy whose weights are still `before`; a policy loaded from a file stays."""
    trunk = compared.trunk_of(model)
    now = trunk.policy.state_dict()
    if all(torch.equal(now[name], value) for name, value in before.items()):
        compared.settle(trunk)


def _arms_of_policies(
    configs: Sequence[CfgNode], args: argparse.Namespace, whole: bool
) -> tuple[dict[str, nn.Module], list[Pair]]:
    """Every policy with fresh decisions, in a twin of one dense model that may be loaded.

    A policy that needs a class token is compared with a dense model that has one too.
    """
    policies = [build_policy_from(cfg.MODEL.TOKEN_POLICY, _shape(cfg)) for cfg in configs]
    needing = [policy.needs_class_token for policy in policies]
    # The model has a class token where any policy needs one: a twin can leave the token off.
    fresh = _fresh(configs[needing.index(True) if any(needing) else 0], whole)
    with_token = compared.with_policy(fresh, Dense())
    if names_weights(args):
        TokenCheckpointer(with_token).load(configs[0].MODEL.WEIGHTS)
    without = compared.without_class_token(with_token)
    dense = {True: (DENSE_CLASS, with_token), False: (DENSE, without)}
    models = dict(dense[need] for need in sorted(set(needing)))
    pairs = []
    for cfg, policy, needs in zip(configs, policies, needing, strict=True):
        arm, model = dense[needs]
        twin = compared.with_policy(model, policy.to(cfg.MODEL.DEVICE))
        compared.settle(compared.trunk_of(twin))
        models[cfg.MODEL.TOKEN_POLICY.NAME] = twin
        pairs.append(Pair(cfg=cfg, dense=arm, pruned=cfg.MODEL.TOKEN_POLICY.NAME))
    return models, pairs


def _shape(cfg: CfgNode) -> TrunkShape:
    vit = cfg.MODEL.VIT
    return TrunkShape(vit.EMBED_DIM, vit.DEPTH, vit.NUM_HEADS)
