"""No key, ours or detectron2's, takes in silence what cannot be meant: a fuzz over every key."""

import math
from functools import cache

import pytest
from detectron2.config import CfgNode, get_cfg

from svit_det.config.reading import merge_values
from svit_det.detection.config import declared_nodes
from svit_det.detection.config_file import check_config, default_config
from svit_det.detection.ranges import EXPECTED, leaves, ranges
from svit_det.errors import InputError

NAN = math.nan
MAY_BE_NEGATIVE = {
    *("SEED", "GLOBAL.HACK", "MODEL.PIXEL_MEAN", "MODEL.ANCHOR_GENERATOR.ANGLES"),
    *("MODEL.RPN.BOUNDARY_THRESH", "MODEL.RPN.CONV_DIMS", "MODEL.RPN.IOU_LABELS"),
    *(
        "MODEL.ROI_HEADS.IOU_LABELS",
        "MODEL.RETINANET.IOU_LABELS",
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    ),
    *("MODEL.TOKEN_POLICY.A_VIT.BETA", EXPECTED),
}
"""Where a number below 0 means something."""
MAY_BE_INFINITE = {"SOLVER.CLIP_GRADIENTS.NORM_TYPE"}
"""detectron2 documents it: the largest of the gradients."""


@cache
def stock():
    """A config that every check lets pass."""
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "TokenRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_plain_vit_simple_pyramid_backbone"
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD.NAME = "StandardROIHeads", "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    check_config(cfg)
    return cfg


KEYS = [key for key, _ in leaves(stock())]


@pytest.fixture(scope="module")
def keys(hostile):
    return hostile(
        stock(), check_config, may_be_negative=MAY_BE_NEGATIVE, may_be_infinite=MAY_BE_INFINITE
    )


@pytest.mark.parametrize("key", KEYS)
def test_three_hostile_values(key, keys):
    keys.check_key(key, keys.THREE)


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_twenty_more(key, keys):
    keys.check_key(key, keys.TWENTY)


# ------------------------------------------------------------------ the declarations are complete


def ours():
    return {
        f"{name}.{key}": declared.about
        for name, node in declared_nodes().items()
        for key, declared in node.keys.items()
    }


def test_every_number_has_a_range(keys):
    declared = ranges() | ours()
    for key, default in leaves(stock()):
        numbers = [x for x in keys.flat(default) if type(x) in (int, float)]
        if numbers:
            assert declared[key].interval, key
    for key, about in declared.items():
        if about.kind in (int, float):
            assert about.interval, key
            assert "inf" not in about.interval or key in MAY_BE_INFINITE, key


def test_every_range_is_of_a_key_that_is_there_and_holds_its_default():
    known = dict(leaves(get_cfg()))
    assert set(ranges()) <= set(known)
    for key, default in known.items():
        if not default and isinstance(default, (list, tuple)) and key != EXPECTED:
            assert key in ranges(), f"{key} is empty by default: nothing says what it holds"


@pytest.mark.parametrize("value", [[["bbox", "AP", 38.5, 0.2]], []])
def test_expected_results(value, keys):
    assert keys.try_value(EXPECTED, value) == value


@pytest.mark.parametrize("value", [[["bbox", "AP", NAN, 0.2]], [["bbox", "AP"]], [[1, 2, 3, 4]]])
def test_expected_results_refused(value, keys):
    with pytest.raises(InputError, match=EXPECTED):
        keys.try_value(EXPECTED, value)


# ------------------------------------------------------------------ what must go together


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"MODEL": {"RPN": {"IOU_LABELS": [0, 1]}}}, "MODEL.RPN.IOU_LABELS: 2 labels for 2"),
        ({"MODEL": {"RPN": {"IOU_THRESHOLDS": [0.7, 0.3]}}}, "MODEL.RPN.IOU_THRESHOLDS"),
        ({"SOLVER": {"REFERENCE_WORLD_SIZE": 3}}, "SOLVER.REFERENCE_WORLD_SIZE: 3 does not divide"),
        ({"SOLVER": {"STEPS": [30, 20]}}, "SOLVER.STEPS: [30, 20] must rise"),
        (
            {"SOLVER": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 1.0}},
            "SOLVER.BASE_LR_END: 1.0 must not exceed",
        ),
        ({"INPUT": {"CROP": {"SIZE": [400.0, 600.0]}}}, "INPUT.CROP.SIZE: [400.0, 600.0] must be"),
        ({"INPUT": {"CROP": {"TYPE": "absolute", "SIZE": [0.5, 1.0]}}}, "INPUT.CROP.SIZE"),
        ({"INPUT": {"MIN_SIZE_TRAIN_SAMPLING": "range"}}, "INPUT.MIN_SIZE_TRAIN"),
        (
            {"MODEL": {"SIMPLE_PYRAMID": {"NORM": "GN", "OUT_CHANNELS": 20}}},
            "MODEL.SIMPLE_PYRAMID.OUT_CHANNELS: 20 is no multiple of the 32",
        ),
        (
            {"MODEL": {"ROI_BOX_HEAD": {"NAME": ""}, "ROI_HEADS": {"NAME": "StandardROIHeads"}}},
            "MODEL.ROI_BOX_HEAD.NAME: no ''",
        ),
        ({"MODEL": {"ROI_HEADS": {"NAME": "CascadeROIHeads"}}}, "MODEL.ROI_BOX_"),
        ({"MODEL": {"DEVICE": "meta"}}, "MODEL.DEVICE: meta is not supported"),
        ({"MODEL": {"DEVICE": "mps"}}, "MODEL.DEVICE: mps is not supported"),
        ({"MODEL": {"DEVICE": "cpu:1"}}, "MODEL.DEVICE: cpu:1 is not supported"),
        ({"SOLVER": {"LR_SCHEDULER_NAME": "Cosine"}}, "SOLVER.LR_SCHEDULER_NAME: no 'Cosine'"),
        ({"DATALOADER": {"SAMPLER_TRAIN": "Sampler"}}, "DATALOADER.SAMPLER_TRAIN: no 'Sampler'"),
        ({"MODEL": {"ROI_MASK_HEAD": {"POOLER_TYPE": "ROI"}}}, "MODEL.ROI_MASK_HEAD.POOLER_TYPE"),
        ({"MODEL": {"FPN": {"NORM": "abc"}}}, "MODEL.FPN.NORM: no 'abc'"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_must_go_together(values, said):
    cfg = stock().clone()
    with pytest.raises(InputError) as refusal:
        merge_values(cfg, values, source="wrong.yaml")
        check_config(cfg)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_number_of_another_detectron2_is_checked_too(monkeypatch):
    """Only its sign and order are known, and that it is a number."""
    from svit_det.detection import ranges as table

    newer = get_cfg()
    newer.MODEL.NEW = CfgNode({"RATE": 0.5})
    monkeypatch.setattr(table, "get_cfg", lambda: newer)
    cfg = stock().clone()
    cfg.MODEL.NEW = CfgNode({"RATE": NAN})
    with pytest.raises(InputError, match=r"MODEL\.NEW\.RATE: nan must lie in"):
        table.check_foreign_values(cfg)
