"""The small detectors of the tables of docs/export.md: the demo's configs at toy size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from svit_det.detection import load_config
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NETWORKS = {"simple pyramid": "demo/dense.yaml", "ViT-Adapter": "demo/adapter_dense.yaml"}
SIZE = (64, 96)
TOY = (
    *("MODEL.DEVICE", "cpu", "MODEL.VIT.EMBED_DIM", "48", "MODEL.VIT.DEPTH", "6"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 2], [3, 5]]"),
    # With these values tokens halt under random weights, too.
    *("MODEL.TOKEN_POLICY.A_VIT.GAMMA", "20.0", "MODEL.TOKEN_POLICY.A_VIT.BETA", "4.0"),
)


def toy_model(
    policy: str, options: Sequence[str], network: str, pictures: Sequence[Tensor]
) -> nn.Module:
    """A small detector with weights far from their start, whose thresholds divide the tokens."""
    cfg = toy_config(policy, options, network)
    torch.manual_seed(0)
    model = build_model(cfg)
    net = find_token_net(model)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        images = (torch.cat(list(pictures)) - model.pixel_mean) / model.pixel_std
        net.trunk.policy.track(net.train()(images)[1])
    return model.eval()


def toy_config(policy: str, options: Sequence[str], network: str) -> CfgNode:
    """The demo's config of this network at toy size."""
    return load_config(str(CONFIGS / NETWORKS[network]), [*toy_options(policy), *options])


def toy_options(policy: str) -> list[str]:
    """Overrides for the toy size; blocks 2 to 4 decide, where the policy has a schedule."""
    chosen = [*TOY, "MODEL.TOKEN_POLICY.NAME", policy]
    if "layers" in POLICY_REGISTRY.get(policy).Config.described():
        chosen += ["MODEL.TOKEN_POLICY.LAYERS", "[2, 3, 4]"]
        chosen += ["MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.49, 0.343]"]
    return chosen
