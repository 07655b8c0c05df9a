"""Conversion over any module that has a trunk; the kinds themselves are tested with the tool."""

import pytest
import torch
from torch import nn

from svit_det.errors import InputError
from svit_det.weights.convert import KINDS, convert_weights

SIZES = {"pretrain_grid": (2, 2), "num_interactions": 0, "num_extra": 0, "source": "theirs.pth"}


@pytest.fixture
def net():
    """A trunk of one layer with a policy, and something beside it."""
    trunk = nn.ModuleDict({"mlp": nn.Linear(2, 3), "policy": nn.ModuleDict({"g": nn.Linear(1, 1)})})
    return nn.ModuleDict({"trunk": trunk, "fpn": nn.Linear(1, 1)})


@pytest.fixture
def trained(net):
    """A detector's weights, with another policy and pyramid."""
    weights = {f"backbone.net.trunk.mlp.{n}": v + 1 for n, v in net.trunk.mlp.state_dict().items()}
    return weights | {
        "backbone.net.trunk.policy.h.bias": torch.zeros(1),
        "rpn.bias": torch.zeros(1),
    }


def test_a_trunk_comes_without_its_policy_and_what_stands_beside_it(net, trained):
    converted = convert_weights("trunk", trained, net, **SIZES)
    assert converted.keys() == {"trunk.mlp.weight", "trunk.mlp.bias"}
    assert torch.equal(converted["trunk.mlp.bias"], net.trunk.mlp.bias + 1)


def test_the_caller_names_file_and_network(net, trained):
    trained["backbone.net.trunk.mlp.bias"] = torch.zeros(4)
    with pytest.raises(InputError) as refused:
        convert_weights("trunk", trained, net, **SIZES, target="this model")
    assert str(refused.value) == "theirs.pth: trunk.mlp.bias has another shape in this model."
    trained["backbone.net.trunk.mlp.extra"] = trained.pop("backbone.net.trunk.mlp.bias")
    with pytest.raises(InputError, match=r"^theirs\.pth: trunk\.mlp\.bias is not in the file\.$"):
        convert_weights("trunk", trained, net, **SIZES)


def test_kinds_are_known(net):
    with pytest.raises(ValueError, match=f"kind must be one of {', '.join(KINDS)}, not 'timm'"):
        convert_weights("timm", {}, net, **SIZES)
