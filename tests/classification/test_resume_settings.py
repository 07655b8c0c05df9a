"""A resumed training has the settings of the first one, compared key by key."""

from functools import reduce
from pathlib import Path

import pytest
import torch
import yaml

from svit_det.classification.config import default_config, load_config
from svit_det.classification.processes import Processes
from svit_det.classification.run_state import MAY_CHANGE, check_resume
from svit_det.classification.trainer import Trainer
from svit_det.errors import InputError

PATH = Path("run/last.pth")


@pytest.fixture
def state(a_yaml, small):
    """Factory: the part of a checkpoint that says which training it is of."""

    def make(*options, **counts):
        config = load_config(a_yaml, [*small(), *options]).dump()
        return {"config": config, "processes": 1, "images": 24, "steps_per_epoch": 3, **counts}

    return make


def refusal(before, now):
    with pytest.raises(InputError) as refused:
        check_resume(PATH, before, now)
    said = str(refused.value)
    assert said.startswith("run/last.pth: a training with ") and "\n" not in said
    assert said.endswith("; set it back, or begin anew in another OUTPUT_DIR.")
    return said


def test_the_same_settings(state):
    check_resume(PATH, state(), state())


def test_a_value_that_another_key_had(state):
    """A line BATCH_SIZE: 8 stood in the older config too, but under SOLVER."""
    said = refusal(state(), state("TEST.BATCH_SIZE", "8"))
    assert "TEST.BATCH_SIZE 5 cannot go on with 8;" in said


def test_a_list_in_another_order(state):
    """Every line of the one config is a line of the other."""
    said = refusal(state(), state("INPUT.MEAN", "[0.485, 0.406, 0.456]"))
    assert "INPUT.MEAN [0.485, 0.456, 0.406] cannot go on with [0.485, 0.406, 0.456];" in said


def test_a_list_that_became_shorter(state):
    said = refusal(state(), state("SOLVER.NO_WEIGHT_DECAY", "['norm', 'bias', 'pos_embed']"))
    assert "SOLVER.NO_WEIGHT_DECAY" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.WEIGHTS", "other.pth"),
        ("MODEL.TOKEN_POLICY.NAME", "EViT"),
        ("MODEL.TOKEN_POLICY.WRAPPERS", "['Monotone']"),
        ("SOLVER.EPOCHS", "3"),
        ("SOLVER.SEED", "1"),
        ("INPUT.SCALE", "[0.5, 1.0]"),
        ("SOLVER.AMP", "True"),
    ],
)
def test_keys_that_change_the_result(state, key, value):
    assert f" {key} " in refusal(state(), state(key, value))


def test_keys_that_may_change(state):
    other = {
        "MODEL.DEVICE": "cpu",
        "DATA.ROOT": "elsewhere",
        "DATA.NUM_WORKERS": "3",
        "SOLVER.CHECKPOINT_EPOCHS": "7",
        "OUTPUT_DIR": "elsewhere",
    }
    assert set(other) == MAY_CHANGE
    check_resume(PATH, state(), state(*(word for pair in other.items() for word in pair)))


def test_a_checkpoint_of_an_older_or_newer_version(state):
    """A key that came since has its default; one that is gone is not passed over."""
    config = yaml.safe_load(state()["config"])
    del config["SOLVER"]["LOGIT_DISTILL_WEIGHT"]
    older = {"config": yaml.safe_dump(config), "steps_per_epoch": 3}
    check_resume(PATH, older, state())
    said = refusal(older, state("SOLVER.LOGIT_DISTILL_WEIGHT", "0.5"))
    assert "SOLVER.LOGIT_DISTILL_WEIGHT 0.0 cannot go on with 0.5;" in said
    config["SOLVER"]["GONE"] = 3
    assert "SOLVER.GONE 3 cannot go on with None;" in refusal(
        {**older, "config": yaml.safe_dump(config)}, state()
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("processes", "the number of processes 2 cannot go on with 1;"),
        ("images", "the number of training images 2 cannot go on with 24;"),
        ("steps_per_epoch", "the number of steps an epoch 2 cannot go on with 3;"),
    ],
)
def test_another_number(state, key, said):
    assert said in refusal(state(**{key: 2}), state())


def test_the_number_of_processes_is_kept(a_yaml, small):
    trainer = Trainer(load_config(a_yaml, small()), Processes(), torch.device("cpu"))
    trainer._save()
    trainer.where = Processes(0, 2)
    with pytest.raises(InputError, match="the number of processes 1 cannot go on with 2"):
        trainer.resume()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("A: [", "not a readable yaml config"),
        ("A: 1\nA: 2\n", "A stands twice"),
        ("A: !!python/object/apply:os.getcwd []\n", "remove the python tag"),
    ],
)
def test_a_config_that_cannot_be_read(state, config, said):
    with pytest.raises(InputError) as refused:
        check_resume(PATH, {**state(), "config": config}, state())
    assert said in str(refused.value) and "the config in run/last.pth: " in str(refused.value)


@pytest.mark.parametrize("key", sorted(MAY_CHANGE))
def test_what_may_change_is_there(key):
    """A key that was renamed would be compared without a word."""
    assert reduce(getattr, key.split("."), default_config()) is not None
