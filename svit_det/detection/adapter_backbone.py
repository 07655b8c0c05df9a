"""The ViT-Adapter as a detectron2 backbone, alone and under detectron2's FPN."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN
from detectron2.utils import comm
from torch import nn

from svit_det.adapter import ViTAdapter
from svit_det.detection.backbone import (
    LastLevelMaxPoolOn,
    TokenBackbone,
    build_trunk,
    check_levels,
    cpu_precision,
)
from svit_det.detection.config import adapter_key
from svit_det.errors import InputError, renamed_settings

NORMS = ("SyncBN", "BN", "FrozenBN", "GN")


def build_norm(name: str, channels: int, *, device: str) -> nn.Module:
    """The norm called `name`. SyncBN in a single process is plain BN.

    torch's SyncBN does not run on CPUs; there, detectron2's own SyncBN computes the same.
    """
    if name != "SyncBN":
        return get_norm(name, channels)
    if comm.get_world_size() == 1:
        return nn.BatchNorm2d(channels)
    on_gpu = torch.device(device).type == "cuda"
    return nn.SyncBatchNorm(channels) if on_gpu else NaiveSyncBatchNorm(channels)


@BACKBONE_REGISTRY.register()
def build_vit_adapter_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TokenBackbone:
    """The adapter's own maps, `res2` at stride 4 to `res5` at stride 32 with patches of 16."""
    adapter = cfg.MODEL.ADAPTER
    if adapter.NORM not in NORMS:
        raise InputError(
            f"MODEL.ADAPTER.NORM: no '{adapter.NORM}'; choose one of {', '.join(NORMS)}."
        )
    trunk = build_trunk(cfg, input_shape.channels)
    with renamed_settings(adapter_key):
        net = ViTAdapter(
            trunk=trunk,
            interactions=adapter.INTERACTIONS,
            num_heads=adapter.DEFORM_NUM_HEADS,
            num_points=adapter.NUM_POINTS,
            ffn_ratio=adapter.FFN_RATIO,
            stem_width=adapter.STEM_WIDTH,
            num_extra_extractors=adapter.NUM_EXTRA_EXTRACTORS,
            drop_path_rate=cfg.MODEL.VIT.DROP_PATH_RATE,
            finest_map=adapter.FINEST_MAP,
            norm=lambda channels: build_norm(adapter.NORM, channels, device=cfg.MODEL.DEVICE),
        )
    return TokenBackbone(net, cpu_precision=cpu_precision(cfg))


@BACKBONE_REGISTRY.register()
def build_vit_adapter_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's FPN over the adapter's maps: levels p2, p3, ..., and one more by pooling."""
    bottom_up = build_vit_adapter_backbone(cfg, input_shape)
    names = list(bottom_up.output_shape())
    chosen = list(cfg.MODEL.FPN.IN_FEATURES) or names
    if chosen not in (names[start:] for start in range(len(names))):
        raise InputError(f"MODEL.FPN.IN_FEATURES: {chosen} is not a run of {names} up to its end.")
    backbone = FPN(
        bottom_up=bottom_up,
        in_features=chosen,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPoolOn(chosen[-1].replace("res", "p"))
        if cfg.MODEL.ADAPTER.TOP_BLOCK
        else None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    check_levels(cfg.MODEL, list(backbone.output_shape()))
    return backbone
