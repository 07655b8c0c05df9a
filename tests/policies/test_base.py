"""The pieces that policies share: choosing the highest, and remembering who is left."""

import torch

from svit_det.policies.base import keep_highest, keep_top, survivors
from svit_det.tokens import TokenState

SCORE = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
EVERYONE = torch.ones(2, 4, dtype=torch.bool)


def places(keep):
    return [row.nonzero().flatten().tolist() for row in keep]


def test_the_highest_of_each_image():
    assert places(keep_top(SCORE, 2)) == [[1, 3], [0, 1]]
    assert places(keep_highest(SCORE, EVERYONE, torch.tensor([2, 2]))) == [[1, 3], [0, 1]]


def test_another_number_for_each_image_and_some_not_up_for_choice():
    among = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    assert places(keep_highest(SCORE, among, torch.tensor([1, 0]))) == [[3], []]
    assert places(keep_highest(SCORE, among, torch.tensor([2, 1]))) == [[2, 3], [2]]
    # More than there are: all that are up for choice, and no other.
    assert places(keep_highest(SCORE, among, torch.tensor([4, 3]))) == [[0, 2, 3], [2, 3]]


def test_of_equals_the_first():
    assert places(keep_highest(torch.zeros(2, 4), EVERYONE, torch.tensor([1, 3]))) == [
        [0],
        [0, 1, 2],
    ]


def test_survivors():
    state = TokenState(patches=torch.zeros(2, 4, 8), extra=torch.zeros(2, 1, 8), grid=(2, 2))
    assert survivors(state).whole
    left = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    allowed = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]]).bool()
    remembering = TokenState(state.patches, state.extra, state.grid, memory=left)
    assert places(survivors(remembering).keep) == [[0, 2, 3], [2, 3]]
    assert not survivors(remembering).whole
    some = TokenState(state.patches, state.extra, state.grid, memory=left, allowed=allowed)
    assert places(survivors(some).keep) == [[0, 3], [2]]
