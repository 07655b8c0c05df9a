"""A config inside a file of weights may not ask for a model that fills the memory."""

import pytest
import torch
from torch import nn

from svit_det.errors import InputError
from svit_det.weights import model_size
from svit_det.weights.model_size import in_proportion


@pytest.fixture
def path(tmp_path):
    torch.save({"model": {"a": torch.ones(10)}}, tmp_path / "a.pth")
    return str(tmp_path / "a.pth")


def test_a_model_that_fits_is_built(path):
    with in_proportion(path):
        assert nn.Linear(30, 20)(torch.ones(30)).shape == (20,)
    with in_proportion("none.pth"):
        nn.Linear(3, 2)


@pytest.mark.parametrize("size", [20_000, 10**6, 10**9])
def test_a_giant_is_stopped_before_it_is_initialised(path, size):
    said = r"a\.pth: its config describes a model far larger"
    with pytest.raises(InputError, match=said), in_proportion(path):
        nn.Linear(size, size)


def test_many_parts_are_counted_together(path, monkeypatch):
    monkeypatch.setattr(model_size, "ALWAYS_ALLOWED", 5_000)
    with pytest.raises(InputError, match="far larger than this file"), in_proportion(path):
        for _ in range(1_000):
            nn.Linear(10, 10)


def test_nothing_is_counted_afterwards(path):
    with in_proportion(path):
        pass
    assert nn.Linear(20_000, 20_000, device="meta").weight.numel() == 4 * 10**8


def test_other_errors_are_left_alone(path):
    with pytest.raises(RuntimeError, match="a mistake"), in_proportion(path):
        raise RuntimeError("a mistake")
