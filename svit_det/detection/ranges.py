"""The valid values of detectron2's own keys: one table, for the check and for docs/config_keys.md.

detectron2 declares a default and accepts any value of the same type: not-a-number as a learning
rate, a size of -1, a list with words in it. The bounds are wide: they only refuse values that
cannot be meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from svit_det.detection.keys import NORMS
from svit_det.errors import InputError
from svit_det.settings import Setting, checked, shown

COUNT, CHANNELS, PIXELS, STEPS = "[0, 1e6]", "[1, 65536]", "[1, 100000]", "[0, 1e9]"
SHARE, WEIGHT, SCALE = "[0, 1]", "[0, 1e6]", "(0, 1e6]"
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")


def _one(kind: type, interval: str, *, optional: bool = False) -> Setting:
    return Setting("", kind, interval=interval, optional=optional)


def _list(kind: type, interval: str = "", *, length: int | None = None, group: int = 0) -> Setting:
    """A list of `length` entries; None: of any length but 0."""
    low, high = (1, 1000) if length is None else (length, length)
    about = Setting("", kind, many=True, interval=interval, shortest=low, longest=high)
    return Setting(**{**vars(about), "group": group})


def _any_list(kind: type, interval: str = "") -> Setting:
    """A list of any length; it may be empty."""
    return Setting("", kind, many=True, interval=interval)


def _words(*choices: str) -> Setting:
    return Setting("", str, choices=choices)


def _head(**keys: Setting) -> dict[str, Setting]:
    """The keys that all heads have, and the keys of one head."""
    return {
        "POOLER_RESOLUTION": _one(int, "[1, 1024]"),
        "POOLER_SAMPLING_RATIO": _one(int, "[0, 64]"),
        "POOLER_TYPE": _words(*POOLERS),
        **keys,
    }


def _boxes(**keys: Setting) -> dict[str, Setting]:
    """The keys that all regressions of boxes have, and the keys of one of them."""
    return {
        "BBOX_REG_LOSS_TYPE": _words(*BOX_LOSSES),
        "BBOX_REG_WEIGHTS": _list(float, SCALE, length=4),
        **keys,
    }


def _labels() -> dict[str, Setting]:
    return {
        "IOU_THRESHOLDS": _list(float, "(0, 1]"),
        "IOU_LABELS": _list(int, "[-1, 1]"),
    }


NODES: Mapping[str, Mapping[str, Setting]] = {
    "": {
        "VERSION": _one(int, "[2, 2]"),
        "SEED": _one(int, "[-1, 2e9]"),
        "VIS_PERIOD": _one(int, STEPS),
    },
    "GLOBAL": {"HACK": _one(float, "[-1e6, 1e6]")},
    "MODEL": {
        "PIXEL_MEAN": _list(float, "[-1e6, 1e6]", length=3),
        "PIXEL_STD": _list(float, SCALE, length=3),
    },
    "MODEL.BACKBONE": {"FREEZE_AT": _one(int, "[0, 100]")},
    "MODEL.FPN": {
        "IN_FEATURES": _any_list(str),
        "OUT_CHANNELS": _one(int, CHANNELS),
        "NORM": _words(*NORMS),
        "FUSE_TYPE": _words("sum", "avg"),
    },
    "MODEL.PROPOSAL_GENERATOR": {"MIN_SIZE": _one(int, "[0, 100000]")},
    "MODEL.ANCHOR_GENERATOR": {
        "SIZES": _list(float, "(0, 100000]", group=-1),
        "ASPECT_RATIOS": _list(float, "(0, 1000]", group=-1),
        "ANGLES": _list(float, "[-360, 360]", group=-1),
        "OFFSET": _one(float, "[0, 1)"),
    },
    "MODEL.RPN": _boxes(
        **_labels(),
        BOUNDARY_THRESH=_one(int, "[-1, 1e6]"),
        BATCH_SIZE_PER_IMAGE=_one(int, "[1, 1e6]"),
        POSITIVE_FRACTION=_one(float, SHARE),
        BBOX_REG_LOSS_WEIGHT=_one(float, WEIGHT),
        SMOOTH_L1_BETA=_one(float, WEIGHT),
        LOSS_WEIGHT=_one(float, WEIGHT),
        PRE_NMS_TOPK_TRAIN=_one(int, "[1, 1e6]"),
        PRE_NMS_TOPK_TEST=_one(int, "[1, 1e6]"),
        POST_NMS_TOPK_TRAIN=_one(int, "[1, 1e6]"),
        POST_NMS_TOPK_TEST=_one(int, "[1, 1e6]"),
        NMS_THRESH=_one(float, SHARE),
        CONV_DIMS=_list(int, "[-1, 65536]"),
    ),
    "MODEL.ROI_HEADS": {
        **_labels(),
        "NUM_CLASSES": _one(int, "[1, 100000]"),
        "BATCH_SIZE_PER_IMAGE": _one(int, "[1, 1e6]"),
        "POSITIVE_FRACTION": _one(float, SHARE),
        "SCORE_THRESH_TEST": _one(float, SHARE),
        "NMS_THRESH_TEST": _one(float, SHARE),
    },
    "MODEL.ROI_BOX_HEAD": _boxes(
        **_head(),
        BBOX_REG_LOSS_WEIGHT=_one(float, WEIGHT),
        SMOOTH_L1_BETA=_one(float, WEIGHT),
        NUM_FC=_one(int, "[0, 100]"),
        FC_DIM=_one(int, CHANNELS),
        NUM_CONV=_one(int, "[0, 100]"),
        CONV_DIM=_one(int, CHANNELS),
        NORM=_words(*NORMS),
        FED_LOSS_FREQ_WEIGHT_POWER=_one(float, "[0, 100]"),
        FED_LOSS_NUM_CLASSES=_one(int, "[1, 100000]"),
    ),
    "MODEL.ROI_BOX_CASCADE_HEAD": {
        "BBOX_REG_WEIGHTS": _list(float, SCALE, group=4),
        "IOUS": _list(float, "(0, 1]"),
    },
    "MODEL.ROI_MASK_HEAD": _head(
        NUM_CONV=_one(int, "[0, 100]"), CONV_DIM=_one(int, CHANNELS), NORM=_words(*NORMS)
    ),
    "MODEL.ROI_KEYPOINT_HEAD": _head(
        CONV_DIMS=_list(int, CHANNELS),
        NUM_KEYPOINTS=_one(int, "[1, 10000]"),
        MIN_KEYPOINTS_PER_IMAGE=_one(int, "[0, 10000]"),
        LOSS_WEIGHT=_one(float, WEIGHT),
    ),
    "MODEL.SEM_SEG_HEAD": {
        "IGNORE_VALUE": _one(int, "[-1, 65535]"),
        "NUM_CLASSES": _one(int, "[1, 100000]"),
        "CONVS_DIM": _one(int, CHANNELS),
        "COMMON_STRIDE": _one(int, "[1, 1024]"),
        "NORM": _words(*NORMS),
        "LOSS_WEIGHT": _one(float, WEIGHT),
    },
    "MODEL.PANOPTIC_FPN": {"INSTANCE_LOSS_WEIGHT": _one(float, WEIGHT)},
    "MODEL.PANOPTIC_FPN.COMBINE": {
        "OVERLAP_THRESH": _one(float, SHARE),
        "STUFF_AREA_LIMIT": _one(float, STEPS),
        "INSTANCES_CONFIDENCE_THRESH": _one(float, SHARE),
    },
    "MODEL.RETINANET": _boxes(
        **_labels(),
        NUM_CLASSES=_one(int, "[1, 100000]"),
        NUM_CONVS=_one(int, "[0, 100]"),
        PRIOR_PROB=_one(float, "(0, 1)"),
        SCORE_THRESH_TEST=_one(float, SHARE),
        TOPK_CANDIDATES_TEST=_one(int, "[1, 1e6]"),
        NMS_THRESH_TEST=_one(float, SHARE),
        FOCAL_LOSS_GAMMA=_one(float, "[0, 100]"),
        FOCAL_LOSS_ALPHA=_one(float, SHARE),
        SMOOTH_L1_LOSS_BETA=_one(float, WEIGHT),
        NORM=_words(*NORMS),
    ),
    "MODEL.RESNETS": {
        "DEPTH": _one(int, "[18, 152]"),
        "NUM_GROUPS": _one(int, "[1, 1024]"),
        "NORM": _words(*NORMS),
        "WIDTH_PER_GROUP": _one(int, CHANNELS),
        "RES5_DILATION": _one(int, "[1, 2]"),
        "RES2_OUT_CHANNELS": _one(int, CHANNELS),
        "STEM_OUT_CHANNELS": _one(int, CHANNELS),
        "DEFORM_ON_PER_STAGE": _list(bool, length=4),
        "DEFORM_NUM_GROUPS": _one(int, "[1, 1024]"),
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": _list(int, PIXELS),
        "MIN_SIZE_TRAIN_SAMPLING": _words("choice", "range"),
        "MAX_SIZE_TRAIN": _one(int, PIXELS),
        "MIN_SIZE_TEST": _one(int, "[0, 100000]"),
        "MAX_SIZE_TEST": _one(int, PIXELS),
        "RANDOM_FLIP": _words("none", "horizontal", "vertical", "both"),
        "FORMAT": _words("RGB", "BGR"),
        "MASK_FORMAT": _words("bitmask", "polygon"),
    },
    "INPUT.CROP": {
        "TYPE": _words("relative_range", "relative", "absolute", "absolute_range"),
        "SIZE": _list(float, "(0, 100000]", length=2),
    },
    "DATASETS": {
        "TRAIN": _any_list(str),
        "TEST": _any_list(str),
        "PROPOSAL_FILES_TRAIN": _any_list(str),
        "PROPOSAL_FILES_TEST": _any_list(str),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _one(int, "[1, 1e6]"),
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": _one(int, "[1, 1e6]"),
    },
    "DATALOADER": {
        "NUM_WORKERS": _one(int, "[0, 1024]"),
        "SAMPLER_TRAIN": _words("TrainingSampler", "RepeatFactorTrainingSampler"),
        "REPEAT_THRESHOLD": _one(float, SHARE),
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": _words(
            "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
        ),
        "MAX_ITER": _one(int, "[1, 1e9]"),
        "BASE_LR": _one(float, "(0, 1000]"),
        "BASE_LR_END": _one(float, "[0, 1000]"),
        "MOMENTUM": _one(float, "[0, 1)"),
        "WEIGHT_DECAY": _one(float, "[0, 1000]"),
        "WEIGHT_DECAY_NORM": _one(float, "[0, 1000]"),
        "WEIGHT_DECAY_BIAS": _one(float, "[0, 1000]", optional=True),
        "GAMMA": _one(float, SCALE),
        "STEPS": _any_list(int, "[1, 1e9]"),
        "NUM_DECAYS": _one(int, "[1, 1000]"),
        "WARMUP_FACTOR": _one(float, SHARE),
        "WARMUP_ITERS": _one(int, STEPS),
        "WARMUP_METHOD": _words("linear", "constant"),
        "CHECKPOINT_PERIOD": _one(int, "[1, 1e9]"),
        "IMS_PER_BATCH": _one(int, "[1, 100000]"),
        "REFERENCE_WORLD_SIZE": _one(int, "[0, 100000]"),
        "BIAS_LR_FACTOR": _one(float, WEIGHT),
    },
    "SOLVER.CLIP_GRADIENTS": {
        "CLIP_TYPE": _words("value", "norm", "full_model"),
        "CLIP_VALUE": _one(float, SCALE),
        "NORM_TYPE": _one(float, "(0, inf]"),
    },
    "TEST": {
        "KEYPOINT_OKS_SIGMAS": _any_list(float, "(0, 1000]"),
        "EVAL_PERIOD": _one(int, STEPS),
        "DETECTIONS_PER_IMAGE": _one(int, "[1, 100000]"),
    },
    "TEST.AUG": {"MIN_SIZES": _list(int, PIXELS), "MAX_SIZE": _one(int, PIXELS)},
    "TEST.PRECISE_BN": {"NUM_ITER": _one(int, "[1, 1e9]")},
}
"""The settings by node. The other keys are switches and words; their default says enough."""
EXPECTED = "TEST.EXPECTED_RESULTS"


def ranges() -> dict[str, Setting]:
    """The setting of each key with a range or a choice, by the key's full name."""
    return {
        f"{node}.{key}".lstrip("."): about
        for node, keys in NODES.items()
        for key, about in keys.items()
    }


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, by its full name."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_foreign_values(cfg: CfgNode) -> None:
    """Raise InputError that names a key of detectron2 whose value cannot be meant."""
    known, values = ranges(), dict(leaves(cfg))
    for key, default in leaves(get_cfg()):
        if key == EXPECTED:
            _check_expected(values[key])
        else:
            checked(key, values[key], known.get(key) or _by_default(default))


def _by_default(default: Any) -> Setting:
    """The setting of a key that is not in the table, by its default.

    Such a key is a switch or a word, or a number that another version of detectron2 has.
    """
    if isinstance(default, (list, tuple)):
        return Setting("", type(default[0]) if default else str, many=True)
    if default is None:
        return Setting("", str, optional=True)
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
    return Setting("", type(default), interval="[-1e9, 1e9]" if is_number else "")


def _check_expected(value: Any) -> None:
    """Refuse entries that are not of the form [task, metric, value, tolerance]."""
    number, word = _one(float, "[-1e9, 1e9]"), Setting("", str)
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{shown(value)} is not a list of values.", setting=EXPECTED)
    for entry in value:
        if not isinstance(entry, (list, tuple)) or len(entry) != 4:
            raise InputError(
                f"{shown(entry)} is not of the form [task, metric, value, tolerance].",
                setting=EXPECTED,
            )
        for part, about in zip(entry, (word, word, number, number)):
            checked(EXPECTED, part, about)
