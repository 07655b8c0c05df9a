"""Positions of kept tokens: the ways differ in their operators alone."""

import pytest
import torch

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.dense import Dense
from svit_det.tokens import Selection, TokenGrid, TokenState
from svit_det.vit import Execution, Packed, build_trunk
from svit_det.vit.positions import by_nonzero, by_running_count, by_top

WAYS = [by_nonzero, by_top, by_running_count]


@pytest.mark.parametrize("find", WAYS)
def test_by_hand(find):
    mask = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]]).bool()
    assert find(mask, 2).tolist() == [1, 3, 4, 7]


@pytest.mark.parametrize("find", WAYS)
@pytest.mark.parametrize("count", [0, 1, 17, 39, 40])
def test_the_buffers_order_whatever_the_count(find, count):
    torch.manual_seed(count)
    mask = torch.zeros(3, 40).scatter(1, torch.rand(3, 40).argsort(dim=1)[:, :count], 1.0).bool()
    assert torch.equal(find(mask, count), mask.flatten().nonzero().squeeze(1))


def test_a_trace_would_keep_one_pictures_tokens():
    """torch.jit.trace bakes the size and the chosen tokens in: refused, naming what to use."""
    policy = Dense(shape=TrunkShape(24, 2, 3))
    trunk = build_trunk(policy=policy, embed_dim=24, depth=2, num_heads=3).eval()
    with pytest.raises(InputError, match=r"use torch\.export, with which svit-det export "):
        torch.jit.trace(lambda images: trunk(images).tokens, torch.rand(1, 3, 32, 32))


def test_packed_takes_the_way_it_is_given():
    asked = []

    def find(mask, count):
        asked.append((tuple(mask.shape), count))
        return by_nonzero(mask, count)

    state = TokenState(tokens=torch.rand(2, 4, 8), num_extra=0, grid=TokenGrid.of_tokens(2, 2))
    keep = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]]).bool()
    rows = Execution(hard=Packed(find=find)).enter(0, state, Selection(keep=keep, total=2))
    assert rows.layout.index.tolist() == [0, 2, 6, 7]
    assert asked == [((2, 4), 2)]
