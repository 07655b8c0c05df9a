"""A checkpoint whose state has another form than a run writes: refused before it is taken over."""

import copy
import math

import pytest
import torch

from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError


@pytest.fixture(scope="module")
def finished():
    """A place for the one run that all tests spoil a copy of."""
    return {}


@pytest.fixture
def trainer(tiny_config, tmp_path):
    def make(*options):
        cfg = tiny_config("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()", *options)
        prepare_datasets(cfg, training=True)
        return TokenTrainer(cfg)

    return make


@pytest.fixture
def refusal(trainer, tmp_path, finished):
    """Factory: what a resume says after `spoil` changed the checkpoint's content."""

    def call(spoil):
        if not finished:
            trainer("SOLVER.MAX_ITER", 1).train()
            finished["content"] = torch.load(tmp_path / "model_final.pth", weights_only=True)
        content = copy.deepcopy(finished["content"])
        spoil(content)
        torch.save(content, tmp_path / "model_final.pth")
        (tmp_path / "last_checkpoint").write_text("model_final.pth")
        with pytest.raises(InputError) as refused:
            trainer().resume_or_load(resume=True)
        said = str(refused.value)
        assert said.startswith(f"{tmp_path}/model_final.pth: ") and said.isprintable()
        return said

    return call


def whole(value):
    return lambda c: c.update(trainer=value)


def part(key, value):
    return lambda c: c["trainer"].update({key: value})


def of_run(key, value):
    return lambda c: c["trainer"]["hooks"]["RunState"].update({key: value})


def of_schedule(key, value):
    return lambda c: c["trainer"]["hooks"]["LRScheduler"].update({key: value})


def all_rates(value):
    def spoil(content):
        schedule = content["trainer"]["hooks"]["LRScheduler"]
        schedule["base_lrs"] = [value] * len(schedule["base_lrs"])

    return spoil


SERIES = {"values": [(1.0, 0)], "smoothing_hint": True}
SPOILED = {
    "no state of a training": [
        lambda c: c.pop("trainer"),
        whole(None),
        whole([1]),
        whole(3),
        whole({}),
        part("_trainer", 3),
    ],
    "its step is no count": [
        *(part("iteration", value) for value in ("1", 1.0, math.nan, -5, 10**30, True, None)),
        lambda c: c["trainer"].pop("iteration"),
    ],
    "no state of the training's hooks": [
        *(part("hooks", value) for value in ([1], None, 3, {"RunState": 3}, {"LRScheduler": []})),
    ],
    "its seed is no whole number": [
        *(of_run("seed", value) for value in ("7", None, 1.5, -3, 2**70, True)),
    ],
    "does not say the settings": [of_run("identity", [1]), of_run("order", "abc")],
    "the numbers of its log": [
        *(of_run("history", value) for value in ([1], None, {"a": 5}, {3: SERIES})),
        of_run("history", {"a": SERIES | {"values": [("x", "y")]}}),
        of_run("history", {"a": SERIES | {"values": 3}}),
    ],
    "schedule holds numbers that cannot be meant": [
        *(of_schedule("last_epoch", value) for value in (math.nan, "x", -10, 10**12, None)),
        *(all_rates(value) for value in (math.nan, 1e30, "x", -0.1)),
    ],
    "its schedule is one of other rates": [
        of_schedule("base_lrs", []),
        of_schedule("base_lrs", None),
    ],
    "its schedule stands at step": [
        of_schedule("last_epoch", 10**6),
        lambda c: c["trainer"].update(iteration=10**6),
    ],
    "schedule is of another kind": [of_schedule("step", 5), of_schedule("optimizer", "x")],
    "it holds no state of an optimiser": [
        *(lambda c, v=value: c["trainer"]["_trainer"].update(optimizer=v) for value in (3, [1])),
    ],
    "it holds no state of a loss scaler": [
        lambda c: c["trainer"]["_trainer"].update(grad_scaler="x"),
    ],
    "its loss scaler holds a 'scale'": [
        lambda c: c["trainer"]["_trainer"].update(grad_scaler={"scale": math.nan}),
    ],
}


@pytest.mark.parametrize("said", SPOILED)
def test_a_state_of_another_form(refusal, said):
    for spoil in SPOILED[said]:
        assert said in refusal(spoil)


def test_a_moment_of_another_shape(refusal):
    def spoil(content):
        state = content["trainer"]["_trainer"]["optimizer"]["state"]
        state[3]["exp_avg"] = torch.ones(7)

    said = refusal(spoil)
    assert "its optimiser holds a 'exp_avg' of another kind or shape for parameter 3" in said
