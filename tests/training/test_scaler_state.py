"""What a loss scaler takes over from a checkpoint: its own state, and nothing that is odd."""

import math

import pytest
import torch

from svit_det.training.scaler_state import scaler_problem

GOOD = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


def test_its_own_state_is_taken_over():
    assert scaler_problem(GOOD) is None
    assert scaler_problem(torch.amp.GradScaler("cpu", enabled=False).state_dict()) is None
    assert scaler_problem(torch.amp.GradScaler("cpu").state_dict()) is None


@pytest.mark.parametrize("state", [None, [], "x", 3, [GOOD]])
def test_no_state(state):
    assert scaler_problem(state) == "it holds no state of a loss scaler"


ODD = {
    "scale": ["x", None, 0.0, -1.0, math.nan, math.inf, True, [1.0], torch.ones(1)],
    "growth_factor": ["x", 1.0, 0.5, math.nan, 10**400],
    "backoff_factor": ["x", 1.0, 0, 2.0, -0.5, math.nan],
    "growth_interval": ["x", 0, 2.5, -1, 2**40, True],
    "_growth_tracker": ["x", -1, 0.0, None],
}


@pytest.mark.parametrize("key", ODD)
def test_an_odd_state(key):
    said = f"its loss scaler holds a '{key}' that cannot be meant"
    for value in ODD[key]:
        assert scaler_problem(GOOD | {key: value}) == said
    assert scaler_problem({name: value for name, value in GOOD.items() if name != key}) == said
