"""A resumed detector has the settings of the first run, compared key by key."""

import logging
from functools import reduce

import pytest
import torch

from svit_det.detection.config_file import default_config
from svit_det.detection.resume import FALLS, LENGTH, MAY_CHANGE, MIXED, ON_A_CPU, check_resume
from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION

PATH = "run/model_0000001.pth"


def checkpoint_of(cfg, **counts):
    counts = {"number of processes": 1, "number of training images": 8} | counts
    said = {"config": cfg.dump()}
    return {"trainer": {"hooks": {"RunState": {"identity": counts}}}, DESCRIPTION: said}


def refusal(before, now, **options):
    with pytest.raises(InputError) as refused:
        check_resume(now, PATH, before, images=8, **options)
    said = str(refused.value)
    assert said.startswith(f"{PATH}: a run with ") and "\n" not in said
    anew = "begin anew with this file as MODEL.WEIGHTS and without --resume."
    assert said.endswith(f"; set it back, or {anew}")
    return said


def test_the_same_settings(tiny_config, caplog):
    check_resume(tiny_config(), PATH, checkpoint_of(tiny_config()), images=8)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.6]", "[0.7, 0.5] cannot go on with [0.7, 0.6]"),
        ("MODEL.TOKEN_POLICY.LOSS_WEIGHT", "9.0", "cannot go on with 9.0"),
        ("MODEL.TOKEN_POLICY.SVIT.MODE", "quota", "cannot go on with quota"),
        ("MODEL.TOKEN_POLICY.WRAPPERS", "['Monotone']", "[] cannot go on with ['Monotone']"),
        ("SOLVER.BASE_LR", "0.002", "0.001 cannot go on with 0.002"),
        ("SOLVER.IMS_PER_BATCH", "2", "4 cannot go on with 2"),
        ("SOLVER.OPTIMIZER", "SGD", "ADAMW cannot go on with SGD"),
        ("SOLVER.MAX_ITER", "2", "3 cannot go on with 2"),
        ("SOLVER.STEPS", "(2,)", "[] cannot go on with [2]"),
        ("SOLVER.AMP.ENABLED", "True", "False cannot go on with True"),
        ("MODEL.VIT.CPU_PRECISION", "bfloat16", "float32 cannot go on with bfloat16"),
        ("INPUT.MIN_SIZE_TRAIN", "(96,)", "[64] cannot go on with [96]"),
        ("INPUT.RANDOM_FLIP", "none", "horizontal cannot go on with none"),
        ("DATASETS.TRAIN", "('discs_val',)", "['discs_train'] cannot go on with ['discs_val']"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", "False", "True cannot go on with False"),
        ("MODEL.RPN.NMS_THRESH", "0.6", "0.7 cannot go on with 0.6"),
        ("TEST.PRECISE_BN.ENABLED", "True", "False cannot go on with True"),
        ("SEED", "2", "1 cannot go on with 2"),
    ],
)
def test_another_setting_is_refused_by_its_name(tiny_config, key, value, said):
    told = refusal(checkpoint_of(tiny_config()), tiny_config(key, value))
    assert f"a run with {key} " in told and said in told


def test_the_policy_is_named_first(tiny_config):
    now = tiny_config("MODEL.TOKEN_POLICY.NAME", "AViT", "SEED", 2)
    told = refusal(checkpoint_of(tiny_config()), now)
    assert "MODEL.TOKEN_POLICY.NAME SViT cannot go on with AViT (" in told
    assert "more settings differ)" in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OUTPUT_DIR", "elsewhere"),
        ("VIS_PERIOD", "5"),
        ("CUDNN_BENCHMARK", "True"),
        ("DATALOADER.NUM_WORKERS", "3"),
        ("SOLVER.CHECKPOINT_PERIOD", "7"),
        ("DATASETS.COCO_FORMAT", "[]"),
        ("DATASETS.TEST", "()"),
        ("TEST.EVAL_PERIOD", "7"),
        ("TEST.DETECTIONS_PER_IMAGE", "7"),
        ("INPUT.MIN_SIZE_TEST", "96"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", "30"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.5"),
        ("MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", "0.5"),
        ("MODEL.WEIGHTS", "other.pth"),
    ],
)
def test_what_has_no_part_in_the_result_may_change(tiny_config, key, value):
    check_resume(tiny_config(key, value), PATH, checkpoint_of(tiny_config()), images=8)


def test_the_weights_that_a_teacher_is_made_of_may_not(tiny_config):
    before = checkpoint_of(tiny_config("MODEL.WEIGHTS", "one.pth"))
    said = refusal(before, tiny_config("MODEL.WEIGHTS", "two.pth"), needs_teacher=True)
    assert "MODEL.WEIGHTS one.pth cannot go on with two.pth" in said


def test_a_longer_run_is_allowed_and_said(tiny_config, caplog):
    longer = tiny_config("SOLVER.MAX_ITER", 9, "SOLVER.STEPS", "(8,)")
    with caplog.at_level(logging.WARNING, "svit_det"):
        check_resume(longer, PATH, checkpoint_of(tiny_config()), images=8)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{PATH}: its run was one of SOLVER.MAX_ITER 3; prolonged to 9, it is another run from "
        "here on."
    )
    other_rate = tiny_config("SOLVER.MAX_ITER", 9, "SOLVER.BASE_LR", 0.1)
    assert "SOLVER.BASE_LR" in refusal(checkpoint_of(tiny_config()), other_rate)


def test_mixed_precision_follows_the_device(tiny_config):
    """As train_net.py sets the keys on a GPU and on a CPU."""
    before = tiny_config("SOLVER.AMP.ENABLED", True)
    before.MODEL.DEVICE = "cuda"
    now = tiny_config("SOLVER.AMP.ENABLED", False, "MODEL.VIT.CPU_PRECISION", "bfloat16")
    check_resume(now, PATH, checkpoint_of(before), images=8)
    plain = tiny_config("SOLVER.AMP.ENABLED", False)
    assert "SOLVER.AMP.ENABLED True cannot go on" in refusal(checkpoint_of(before), plain)


@pytest.mark.parametrize("name", ["number of processes", "number of training images"])
def test_other_counts(tiny_config, name):
    said = refusal(checkpoint_of(tiny_config(), **{name: 5}), tiny_config())
    assert f"{name} 5 cannot go on with " in said


@pytest.mark.parametrize("odd", ["1", None, True, [1], torch.ones(2)], ids=str)
def test_a_count_that_is_no_number(tiny_config, odd):
    said = refusal(checkpoint_of(tiny_config(), **{"number of processes": odd}), tiny_config())
    assert "a run with number of processes " in said


@pytest.mark.parametrize("odd", ["many", "[3]", ""])
def test_a_length_that_is_no_number(tiny_config, odd):
    content = checkpoint_of(tiny_config())
    text = content[DESCRIPTION]["config"]
    content[DESCRIPTION]["config"] = text.replace("MAX_ITER: 3", f"MAX_ITER: {odd}")
    assert "a run with SOLVER.MAX_ITER " in refusal(content, tiny_config())


def test_a_checkpoint_of_an_older_version(tiny_config):
    """A key that came since has its default; without a config only what is there is compared."""
    content = checkpoint_of(tiny_config())
    lines = content[DESCRIPTION]["config"].splitlines()
    assert sum("CPU_PRECISION" in line for line in lines) == 1
    content[DESCRIPTION]["config"] = "\n".join(x for x in lines if "CPU_PRECISION" not in x)
    check_resume(tiny_config(), PATH, content, images=8)
    said = refusal(content, tiny_config("MODEL.VIT.CPU_PRECISION", "bfloat16"))
    assert "MODEL.VIT.CPU_PRECISION float32 cannot go on with bfloat16" in said
    check_resume(tiny_config("SEED", 5), PATH, {"trainer": {}}, images=8)


@pytest.mark.parametrize("key", sorted({*MAY_CHANGE, LENGTH, FALLS, MIXED, ON_A_CPU}))
def test_the_named_keys_are_there(key):
    """A key that was renamed would be compared, or passed over, without a word."""
    assert reduce(getattr, key.split("."), default_config()) is not None
