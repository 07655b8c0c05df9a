"""Our networks as detectron2 backbones."""

from __future__ import annotations

import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from torch import Tensor

from svit_det.config.trunk import build_trunk_from
from svit_det.detection.stock_trainer import refuse_stock_trainer
from svit_det.detection.untrained import RefusesUntrained
from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.settings import shown
from svit_det.vit import PlainViT, TokenNet, TokenTrunk
from svit_det.vit.net import is_recorded

CPU_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TokenBackbone(RefusesUntrained, Backbone):
    """Makes a network that returns (maps, record) a detectron2 backbone, which returns maps alone.

    `record_passes` gives access to the record. Outside of `record_passes`, training under a policy
    that takes part in training raises InputError: the policy's losses would be missing. Inference
    with a policy that a checkpoint did not have raises InputError too.

    `cpu_precision` applies to training on a CPU, and to the network only. The output maps are in
    float32: with bfloat16 maps, RoIAlign would round box corners to bfloat16 too.
    """

    def __init__(self, net: TokenNet, *, cpu_precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net = net
        self.cpu_precision = cpu_precision
        self._out_features = list(net.strides)
        self._out_feature_strides = net.strides
        self._out_feature_channels = net.channels

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels; detectron2 pads the images."""
        return self.net.size_divisibility

    @property
    def policy(self) -> TokenPolicy:
        """The policy of the trunk."""
        return self.net.trunk.policy

    @property
    def patch_size(self) -> int:
        """Pixels per token and side."""
        return self.net.trunk.patch_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, height, width) -> maps by name."""
        if self.training and torch.is_grad_enabled():
            self._check_recorded()
        if not self.training:
            self.check_trained()
        reduced = self.training and images.device.type == "cpu" and self.cpu_precision.itemsize < 4
        if not reduced:
            return self.net(images)[0]
        with torch.autocast("cpu", dtype=self.cpu_precision):
            maps = self.net(images)[0]
        return {name: feature_map.float() for name, feature_map in maps.items()}

    def _check_recorded(self) -> None:
        if self.policy.takes_part_in_training and not is_recorded(self.net):
            raise InputError(
                f"{type(self.policy).__name__} has losses, statistics or a clock of its own, which "
                "this model would train without: use MODEL.META_ARCHITECTURE TokenRCNN or "
                "TokenRetinaNet, mix TokenLosses into another meta-architecture, or call it inside "
                "record_passes and use the policy's set_step, losses and track yourself."
            )


class PaddedSimplePyramid(SimpleFeaturePyramid):
    """detectron2's SimpleFeaturePyramid with a correct statement of the padding that it needs.

    The original states its divisibility under a misspelt key that is never read, so that only
    square padding works. Here images of any size work.
    """

    @property
    def size_divisibility(self) -> int:
        """A multiple of the patch size and of every stride of the pyramid without its top block."""
        strides = [int(2 ** int(stage[1:])) for stage in self._out_features]
        if self.top_block is not None:
            strides = strides[: -self.top_block.num_levels]
        return math.lcm(self.net.size_divisibility, *strides)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Empty: `size_divisibility` is the only constraint."""
        return {}


def cpu_precision(cfg: CfgNode) -> torch.dtype:
    """The dtype that `MODEL.VIT.CPU_PRECISION` names."""
    name = cfg.MODEL.VIT.CPU_PRECISION
    if name not in CPU_PRECISIONS:
        raise InputError(
            f"MODEL.VIT.CPU_PRECISION: no '{name}'; choose one of {', '.join(CPU_PRECISIONS)}."
        )
    return CPU_PRECISIONS[name]


def build_trunk(cfg: CfgNode, in_channels: int) -> TokenTrunk:
    """The trunk of `MODEL.VIT` under the policy of `MODEL.TOKEN_POLICY`.

    The trunk has a class token if the policy needs one. Refuses a trainer that would ignore keys of
    this project.
    """
    refuse_stock_trainer(cfg)
    return build_trunk_from(cfg.MODEL, in_channels)


@BACKBONE_REGISTRY.register()
def build_plain_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TokenBackbone:
    """The trunk's single map, `last_feat`, without a pyramid."""
    net = PlainViT(trunk=build_trunk(cfg, input_shape.channels))
    return TokenBackbone(net, cpu_precision=cpu_precision(cfg))


@BACKBONE_REGISTRY.register()
def build_plain_vit_simple_pyramid_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> PaddedSimplePyramid:
    """ViTDet's simple feature pyramid over the trunk's last map, with levels p2, p3, ..."""
    pyramid = cfg.MODEL.SIMPLE_PYRAMID
    _check_factors(list(pyramid.SCALE_FACTORS), cfg.MODEL.VIT.PATCH_SIZE)
    coarsest = cfg.MODEL.VIT.PATCH_SIZE / pyramid.SCALE_FACTORS[-1]
    backbone = PaddedSimplePyramid(
        net=build_plain_vit_backbone(cfg, input_shape),
        in_feature="last_feat",
        out_channels=pyramid.OUT_CHANNELS,
        scale_factors=tuple(pyramid.SCALE_FACTORS),
        top_block=LastLevelMaxPoolOn(f"p{int(math.log2(coarsest))}") if pyramid.TOP_BLOCK else None,
        norm=pyramid.NORM,
        square_pad=0,
    )
    check_levels(cfg.MODEL, list(backbone.output_shape()))
    return backbone


def _check_factors(factors: list[float], patch_size: int) -> None:
    known = [4.0, 2.0, 1.0, 0.5]
    if not factors or factors not in (known[i : i + len(factors)] for i in range(len(known))):
        raise InputError(
            f"MODEL.SIMPLE_PYRAMID.SCALE_FACTORS: {factors} is not a run of {known} in that order."
        )
    if patch_size < factors[0] or patch_size & (patch_size - 1):
        raise InputError(
            f"MODEL.VIT.PATCH_SIZE: {patch_size} does not give a pyramid that starts at "
            f"{factors[0]:g} times the map strides that are powers of two."
        )


def head_keys(model: CfgNode) -> list[str]:
    """The nodes of MODEL whose IN_FEATURES are read: those of two-stage heads, or of RetinaNet."""
    return ["RETINANET"] if "RetinaNet" in model.META_ARCHITECTURE else ["RPN", "ROI_HEADS"]


def check_levels(model: CfgNode, levels: list[str]) -> None:
    """Refuse heads that ask for missing levels; the levels' names depend on the patch size."""
    keys = head_keys(model)
    for key in keys:
        wanted = list(model[key].IN_FEATURES)
        if not wanted or len(set(wanted)) < len(wanted):
            raise InputError(
                f"MODEL.{key}.IN_FEATURES: {shown(wanted)} must name levels, each of them once; "
                f"they are {', '.join(levels)}."
            )
        missing = [name for name in model[key].IN_FEATURES if name not in levels]
        if missing:
            raise InputError(
                f"MODEL.{key}.IN_FEATURES: the pyramid has no {', '.join(map(str, missing))}; its "
                f"levels are {', '.join(levels)}."
            )
        if key == "ROI_HEADS" and wanted not in _runs(levels):
            raise InputError(
                f"MODEL.{key}.IN_FEATURES: {shown(wanted)} must be a run of {', '.join(levels)}, "
                "in that order."
            )
    for key in ("SIZES", "ASPECT_RATIOS"):
        given, wanted = len(model.ANCHOR_GENERATOR[key]), len(model[keys[0]].IN_FEATURES)
        if given not in (1, wanted):
            raise InputError(
                f"MODEL.ANCHOR_GENERATOR.{key}: {given} lists for the {wanted} levels of "
                f"MODEL.{keys[0]}.IN_FEATURES; give one for each, or one for all."
            )


def _runs(levels: list[str]) -> list[list[str]]:
    """Every run of levels that follow each other."""
    ends = range(1, len(levels) + 1)
    return [levels[start:end] for end in ends for start in range(end)]


class LastLevelMaxPoolOn(LastLevelMaxPool):
    """detectron2's LastLevelMaxPool on the last level of any pyramid, given by its name."""

    def __init__(self, in_feature: str) -> None:
        super().__init__()
        self.in_feature = in_feature
