"""Parts of detectron2 that cannot work over a token network are refused when the config is read."""

import pytest

from svit_det.errors import InputError


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("BACKBONE.NAME", "build_resnet_backbone", "prunes no tokens; choose build_plain_vit_simp"),
        ("BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "prunes no tokens; choose"),
        ("BACKBONE.NAME", "build_plain_vit_backbone", "it has no map p2 (MODEL.RPN.IN_FEATURES)"),
        ("BACKBONE.NAME", "build_vit_adapter_backbone", "it has no map p2 (MODEL.RPN.IN_FEATURES)"),
        ("ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "boxes of sets are upright here"),
        ("PROPOSAL_GENERATOR.NAME", "RRPN", "boxes of sets are upright here"),
        ("PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "no file of proposals is read here"),
        ("ROI_HEADS.NAME", "RROIHeads", "boxes of sets are upright here"),
        ("ROI_HEADS.NAME", "Res5ROIHeads", "its head is the last stage of a ResNet"),
        ("ROI_BOX_HEAD.USE_FED_LOSS", "True", "sets hold no count of images by class here"),
        ("LOAD_PROPOSALS", "True", "no file of proposals is read here"),
        ("KEYPOINT_ON", "True", "key points of sets are not read here"),
    ],
)
def test_refused_when_the_config_is_read(key, value, said, tiny_config):
    with pytest.raises(InputError) as refusal:
        tiny_config(f"MODEL.{key}", value)
    begin = f"On the command line: MODEL.{key}: {value} cannot work in TokenRCNN, because "
    assert str(refusal.value).startswith(begin) and said in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("RPN.IN_FEATURES", "[]", "must name levels, each of them once"),
        ("RPN.IN_FEATURES", "['p2', 'p2', 'p3']", "must name levels, each of them once"),
        ("ROI_HEADS.IN_FEATURES", "[]", "must name levels, each of them once"),
        ("ROI_HEADS.IN_FEATURES", "['p4', 'p3', 'p2']", "must be a run of p2, p3, p4"),
        ("ROI_HEADS.IN_FEATURES", "['p2', 'p4']", "must be a run of p2, p3, p4"),
    ],
)
def test_levels_of_heads(key, value, said, tiny_model):
    with pytest.raises(InputError) as refusal:
        tiny_model(f"MODEL.{key}", value)
    assert str(refusal.value).startswith(f"MODEL.{key}: ") and said in str(refusal.value)


def test_a_box_head_without_a_layer(tiny_config):
    none = ("MODEL.ROI_BOX_HEAD.NUM_FC", "0", "MODEL.ROI_BOX_HEAD.NUM_CONV", "0")
    with pytest.raises(InputError, match="NUM_FC and NUM_CONV are both 0: give the head one layer"):
        tiny_config(*none)
    tiny_config(*none, "MODEL.META_ARCHITECTURE", "TokenRetinaNet", *RETINA)


@pytest.mark.parametrize(
    ("sizes", "ratios", "good"),
    [
        ("[[16, 16], [32], [64]]", "[[0.5, 1.0, 2.0]]", False),
        ("[[16], [32], [64]]", "[[0.5], [1.0, 2.0], [2.0]]", False),
        ("[[16, 24], [32], [64]]", "[[1.0], [0.5, 1.0], [1.0, 2.0]]", True),
        ("[[16, 32]]", "[[0.5, 1.0]]", True),
    ],
)
def test_as_many_anchors_in_each_level(sizes, ratios, good, tiny_config):
    keys = ("MODEL.ANCHOR_GENERATOR.SIZES", sizes, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ratios)
    if good:
        tiny_config(*keys)
    else:
        with pytest.raises(InputError, match="SIZES and ASPECT_RATIOS: give each level as many"):
            tiny_config(*keys)


def test_more_falls_of_the_rate_than_steps(tiny_config):
    with pytest.raises(InputError, match=r"SOLVER.STEPS: \[1, 2\] are too many for SOLVER.MAX_IT"):
        tiny_config("SOLVER.STEPS", "(1, 2)", "SOLVER.MAX_ITER", "2")
    tiny_config("SOLVER.STEPS", "(1, 2)", "SOLVER.MAX_ITER", "3")


RETINA = ("MODEL.RETINANET.IN_FEATURES", "['p2']")


def test_other_detectors_may_have_them(tiny_config):
    """A ResNet under detectron2's own meta-architecture is nobody's business here."""
    options = ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.KEYPOINT_ON", "True")
    assert tiny_config(*options, "MODEL.BACKBONE.NAME", "build_resnet_backbone").MODEL.KEYPOINT_ON


def test_retinanet_has_no_second_stage(tiny_config):
    options = ("MODEL.META_ARCHITECTURE", "TokenRetinaNet", "MODEL.RETINANET.IN_FEATURES", "['p2']")
    tiny_config(*options, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    tiny_config(
        *("MODEL.META_ARCHITECTURE", "TokenRetinaNet", "MODEL.RETINANET.IN_FEATURES"),
        *("['last_feat']", "MODEL.BACKBONE.NAME", "build_plain_vit_backbone"),
    )
