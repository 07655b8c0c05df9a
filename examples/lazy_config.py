"""SViT under a simple feature pyramid and Mask R-CNN as one of detectron2's LazyConfigs.

    from detectron2.config import LazyConfig, instantiate
    model = instantiate(LazyConfig.load("examples/lazy_config.py").model)

This file reads no yaml; every value that a yaml's keys would set stands here. The blocks that
decide and their shares belong to the policy's settings. `optimizer` has the recipe's parameter
groups. Sizes are those of configs/plain_svit_t.yaml.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from svit_det.detection.backbone import LastLevelMaxPoolOn, PaddedSimplePyramid, TokenBackbone
from svit_det.detection.meta_arch import TokenRCNN
from svit_det.detection.solver import build_adamw
from svit_det.policies import TrunkShape
from svit_det.policies.svit import SViT
from svit_det.vit import PlainViT, build_trunk

width, depth, heads, num_classes = 192, 12, 3, 80
channels = 256
levels = ["p2", "p3", "p4", "p5"]

policy = L(SViT)(
    config=L(SViT.Config)(
        layers=(3, 4, 5, 6, 7, 8, 9, 10, 11),
        keep_ratios=(0.7,) * 3 + (0.49,) * 3 + (0.343,) * 3,
    ),
    shape=L(TrunkShape)(embed_dim=width, depth=depth, num_heads=heads),
)
backbone = L(PaddedSimplePyramid)(
    net=L(TokenBackbone)(
        net=L(PlainViT)(
            trunk=L(build_trunk)(
                policy=policy,
                embed_dim=width,
                depth=depth,
                num_heads=heads,
                drop_path_rate=0.1,
            )
        )
    ),
    in_feature="last_feat",
    out_channels=channels,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPoolOn)(in_feature="p5"),
    norm="LN",
    square_pad=0,
)
model = L(TokenRCNN)(
    backbone=backbone,
    proposal_generator=L(RPN)(
        in_features=[*levels, "p6"],
        head=L(StandardRPNHead)(in_channels=channels, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=num_classes,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=levels,
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=channels, height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=1024),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes=num_classes,
        ),
        mask_in_features=levels,
        mask_pooler=L(ROIPooler)(
            output_size=14,
            scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels=channels, width=14, height=14),
            num_classes=num_classes,
            conv_dims=[256, 256, 256, 256, 256],
        ),
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

# detectron2's lazy training scripts set `optimizer.params.model`; this optimizer takes the model
# itself.
optimizer = L(build_adamw)(model=None, rate=1e-5, weight_decay=1e-6)
