"""Optimiser groups and freezing, on a model small enough to list."""

import pytest
import torch
from torch import nn

from svit_det.errors import InputError
from svit_det.training.freezing import Freezing
from svit_det.training.groups import named_from, parameter_groups


class Toy(nn.Module):
    """trunk.blocks, trunk.policy and a head, each one linear layer."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.ModuleDict({"blocks": nn.Linear(2, 2), "policy": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 2)


def named(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def test_decayed_first_then_spared():
    model = Toy()
    groups = parameter_groups(model, rate=0.5, weight_decay=0.1, no_weight_decay=["bias"])
    assert named(model, groups) == [
        ["trunk.blocks.weight", "trunk.policy.weight", "head.weight"],
        ["trunk.blocks.bias", "trunk.policy.bias", "head.bias"],
    ]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all("lr" not in group for group in groups)


def test_the_longest_beginning_says_the_rate():
    model = Toy()
    factors = {"trunk": 0.01, "trunk.policy": 1.0}
    groups = parameter_groups(
        model, rate=0.5, weight_decay=0.1, no_weight_decay=["bias"], rate_factors=factors
    )
    assert named(model, groups) == [
        ["trunk.policy.weight", "head.weight"],
        ["trunk.policy.bias", "head.bias"],
        ["trunk.blocks.weight"],
        ["trunk.blocks.bias"],
    ]
    assert [group.get("lr") for group in groups] == [None, None, 0.005, 0.005]


def test_a_name_ends_at_a_dot():
    model = nn.ModuleDict({"block": nn.Linear(1, 1), "blocks": nn.Linear(1, 1)})
    groups = parameter_groups(model, rate=1.0, weight_decay=0.1, rate_factors={"block": 0.5})
    assert named(model, groups)[2] == ["block.weight", "block.bias"]


def test_names_inside_a_network_become_names_in_the_model():
    assert named_from("backbone.net", {"trunk": 1}) == {"backbone.net.trunk": 1}
    assert named_from("", {"trunk": 1}) == {"trunk": 1}


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"tronk": 0.5}, "rate_factors: no parameter begins with tronk"),
        ({"trunk": -0.5}, "rate_factors: trunk: -0.5 must be 0 or more"),
        ({"trunk": float("nan")}, "nan must be 0 or more"),
    ],
)
def test_bad_factors_are_refused(factors, words):
    with pytest.raises(InputError, match=words):
        parameter_groups(Toy(), rate=1.0, weight_decay=0.0, rate_factors=factors)


def test_a_frozen_part_stands_still_and_then_learns():
    """AdamW with weight decay: not even that touches it during its first two steps."""
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    freezing = Freezing(model, lambda step: ["trunk.blocks"] if step < 2 else [])
    before = {name: value.clone() for name, value in model.named_parameters()}
    moved = []
    for step in range(4):
        optimizer.zero_grad()
        loss = sum(parameter.square().sum() for parameter in model.parameters())
        loss.backward()
        freezing.clear_gradients(step)
        optimizer.step()
        still = {n for n, value in model.named_parameters() if torch.equal(value, before[n])}
        moved.append(set(before) - still)
    assert moved[0] == moved[1] == {n for n in before if not n.startswith("trunk.blocks")}
    assert moved[2] == moved[3] == set(before)


def test_freezing_what_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"frozen: no parameter begins with trunk\.block"):
        Freezing(Toy(), lambda step: ["trunk.block"])
    later = Freezing(Toy(), lambda step: ["trunk.block"] if step == 5 else [])
    later.clear_gradients(4)
    with pytest.raises(InputError, match=r"frozen: no parameter begins with trunk\.block"):
        later.clear_gradients(5)
