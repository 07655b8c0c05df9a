"""What an optimiser takes over from a checkpoint: its own state, and nothing that is odd."""

import copy
import math

import pytest
import torch
from torch import nn

from svit_det.training.optimizer_state import optimizer_problem


def stepped(kind=torch.optim.AdamW, **options):
    """An optimiser of two groups after a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": [*net[0].parameters()]}, {"params": [*net[1].parameters()], "lr": 0.3}]
    optimizer = kind(groups, lr=0.1, **options)
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return optimizer


KINDS = [
    (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_its_own_state_is_taken_over(kind, options):
    optimizer = stepped(kind, **options)
    state = copy.deepcopy(optimizer.state_dict())
    assert optimizer_problem(state, optimizer) is None
    state["state"] = {}  # SGD without momentum keeps nothing
    problem = optimizer_problem(state, optimizer)
    if kind is torch.optim.SGD:
        assert problem is None
    else:
        assert problem == "its optimiser holds nothing of the steps that were done"
        assert optimizer_problem(state, optimizer, scaled=True) is None  # it may have skipped all


def put(key, value):
    return lambda s: s["state"][0].update({key: value})


def group(key, value):
    return lambda s: s["param_groups"][1].update({key: value})


ODD = {
    "no groups": lambda s: s.pop("param_groups"),
    "groups of ints": lambda s: s.update(param_groups=[3, 4]),
    "one group": lambda s: s["param_groups"].pop(),
    "other parameters": lambda s: s["param_groups"][0]["params"].pop(),
    "no state": lambda s: s.pop("state"),
    "a state of ints": lambda s: s["state"].update({0: 3}),
    "an unknown parameter": lambda s: s["state"].update({77: s["state"][0]}),
    "a text for a parameter": lambda s: s["state"].update({"x": {}}),
    "a moment is missing": lambda s: s["state"][0].pop("exp_avg"),
    "another shape": put("exp_avg", torch.ones(7)),
    "a number alone": put("exp_avg", torch.ones(())),
    "no tensor": put("exp_avg", 3.0),
    "nothing": put("exp_avg", None),
    "one number many times": put("exp_avg", torch.ones(1).expand(4, 3)),
    "whole numbers": put("exp_avg", torch.ones(4, 3, dtype=torch.int64)),
    "true or false": put("exp_avg", torch.ones(4, 3, dtype=torch.bool)),
    "no numbers": put("exp_avg", torch.ones(4, 3, device="meta")),
    "sparse": put("exp_avg", torch.ones(4, 3).to_sparse()),
    "too large": put("exp_avg", torch.full((4, 3), 1e300, dtype=torch.float64)),
    "8 bits": put("exp_avg", torch.ones(4, 3).to(torch.float8_e4m3fn)),
    "negative squares": put("exp_avg_sq", -torch.ones(4, 3)),
    "a step of nan": put("step", torch.tensor(math.nan)),
    "a step of text": put("step", "x"),
    "step -1": put("step", torch.tensor(-1.0)),
    "steps": put("step", torch.ones(3)),
    "a rate of nan": group("lr", math.nan),
    "a rate of text": group("lr", "x"),
    "a huge rate": group("lr", 1e30),
    "a negative rate": group("lr", -0.1),
    "a true rate": group("lr", True),
    "one beta": group("betas", (0.9,)),
    "a beta of 1": group("betas", (0.9, 1.0)),
    "a decay of nan": group("weight_decay", math.nan),
    "upwards": group("maximize", True),
    "other squares": group("amsgrad", True),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_told(name):
    optimizer = stepped()
    state = copy.deepcopy(optimizer.state_dict())
    ODD[name](state)
    problem = optimizer_problem(state, optimizer)
    assert problem and problem.isprintable() and problem.startswith("it")


@pytest.mark.parametrize("state", [None, 3, [1], "x", {}, {"state": [1]}])
def test_what_is_no_state(state):
    assert optimizer_problem(state, stepped()) == "it holds no state of an optimiser"


def test_precisions_are_one_kind():
    optimizer = stepped()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].double()
    state["state"][0]["exp_avg_sq"] = state["state"][0]["exp_avg_sq"].bfloat16()
    assert optimizer_problem(state, optimizer) is None
