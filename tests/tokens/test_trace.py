"""A trace of two blocks on a 2 x 3 grid, two images, typed out."""

import torch

from svit_det.tokens import Selection, TokenTrace

FIRST = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0]]
SECOND = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
ENTERED = [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


def mask(rows):
    return torch.tensor(rows).bool()


def a_trace():
    return TokenTrace(
        (Selection(keep=mask(FIRST)), Selection(keep=mask(SECOND), entered=mask(ENTERED))),
        grid=(2, 3),
    )


def test_keep_maps_are_row_major():
    maps = a_trace().keep_maps()
    assert maps.dtype == torch.bool
    assert maps.int().tolist() == [
        [[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]],
        [[[1, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]],
    ]


def test_the_maps_of_one_image_lose_its_padding():
    assert a_trace().image_keep_maps(1, (2, 2)).int().tolist() == [
        [[1, 0], [0, 1]],
        [[0, 0], [0, 0]],
    ]
    assert a_trace().image_keep_maps(0, (1, 3)).int().tolist() == [[[1, 1, 1]], [[1, 1, 0]]]


def test_counts():
    assert a_trace().counts().tolist() == [[6, 2], [3, 0]]


def test_attention_counts_where_fewer_went_on_to_the_mlp():
    assert a_trace().attention_counts().tolist() == [[6, 4], [3, 1]]


def test_keep_ratios_are_shares_of_the_batch():
    assert torch.equal(a_trace().keep_ratios(), torch.tensor([9 / 12, 2 / 12]))
