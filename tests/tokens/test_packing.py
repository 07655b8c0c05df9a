"""Packing on a 3 x 4 grid: token n of image b is 100 b + n, extra tokens are negative."""

import pytest
import torch

from svit_det.tokens import Segments, gather_tokens, scatter_tokens
from svit_det.tokens.packing import pack_index

PATCHES = torch.stack([torch.arange(12.0), 100 + torch.arange(12.0)]).unsqueeze(-1)
EXTRA = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]).unsqueeze(-1)
NO_EXTRA = torch.zeros(2, 0, 1)

FOUR_AND_TWO = torch.tensor(
    [
        [
            [1, 0, 0, 1],
            [0, 1, 0, 0],
            [0, 0, 0, 1],
        ],
        [
            [0, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 0, 0],
        ],
    ]
).bool()
THREE_AND_NONE = torch.tensor(
    [
        [
            [0, 1, 0, 0],
            [0, 0, 0, 0],
            [1, 0, 1, 0],
        ],
        [
            [0, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
        ],
    ]
).bool()
NOBODY = torch.zeros(2, 3, 4, dtype=torch.bool)
EVERYONE = torch.ones(2, 3, 4, dtype=torch.bool)
KEEPS = pytest.mark.parametrize(
    "keep",
    [
        pytest.param(FOUR_AND_TWO, id="four and two"),
        pytest.param(THREE_AND_NONE, id="three and none"),
        pytest.param(NOBODY, id="nobody"),
        pytest.param(EVERYONE, id="everyone"),
    ],
)
EXTRAS = pytest.mark.parametrize(
    "extra", [pytest.param(NO_EXTRA, id="no extra"), pytest.param(EXTRA, id="two extra")]
)


def index_of(keep, extra=NO_EXTRA, present=None):
    return pack_index(keep.flatten(1), extra.shape[1], present)


def values(tokens):
    return tokens.squeeze(-1).tolist()


def test_the_index_names_rows_image_by_image():
    index = index_of(FOUR_AND_TWO)
    assert index.rows.tolist() == [0, 3, 5, 11, 16, 17]
    assert index.counts == (4, 2)


@pytest.mark.parametrize(
    ("keep", "extra", "packed"),
    [
        (FOUR_AND_TWO, NO_EXTRA, [0, 3, 5, 11, 104, 105]),
        (FOUR_AND_TWO, EXTRA, [-1, -2, 0, 3, 5, 11, -3, -4, 104, 105]),
        (THREE_AND_NONE, NO_EXTRA, [1, 8, 10]),
        (THREE_AND_NONE, EXTRA, [-1, -2, 1, 8, 10, -3, -4]),
        (NOBODY, NO_EXTRA, []),
        (NOBODY, EXTRA, [-1, -2, -3, -4]),
    ],
)
def test_gather(keep, extra, packed):
    assert values(gather_tokens(PATCHES, extra, index_of(keep, extra))) == packed


def test_scatter_puts_rows_back_where_they_came_from():
    packed = torch.tensor([500.0, 501, 502, 503, 504, 505]).unsqueeze(-1)
    patches, extra = scatter_tokens(packed, PATCHES, NO_EXTRA, index_of(FOUR_AND_TWO))
    assert values(patches) == [
        [500, 1, 2, 501, 4, 502, 6, 7, 8, 9, 10, 503],
        [100, 101, 102, 103, 504, 505, 106, 107, 108, 109, 110, 111],
    ]
    assert extra.shape == (2, 0, 1)


def test_scatter_with_extra_tokens():
    packed = torch.tensor([-10.0, -20, 501, 508, 510, -30, -40]).unsqueeze(-1)
    patches, extra = scatter_tokens(packed, PATCHES, EXTRA, index_of(THREE_AND_NONE, EXTRA))
    assert values(patches) == [
        [0, 501, 2, 3, 4, 5, 6, 7, 508, 9, 510, 11],
        [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111],
    ]
    assert values(extra) == [[-10, -20], [-30, -40]]


def test_an_image_may_lack_an_extra_token():
    """The second image has the first of two only; its place for the other stays as it is."""
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    index = index_of(FOUR_AND_TWO, EXTRA, present)
    assert index.lengths == (6, 3)
    packed = gather_tokens(PATCHES, EXTRA, index)
    assert values(packed) == [-1, -2, 0, 3, 5, 11, -3, 104, 105]
    patches, extra = scatter_tokens(packed + 1000, PATCHES, EXTRA, index)
    assert values(extra) == [[999, 998], [997, -4]]
    assert values(patches)[1] == [100, 101, 102, 103, 1104, 1105, *range(106, 112)]


@KEEPS
@EXTRAS
def test_round_trip_is_bit_identical(keep, extra):
    patches = torch.randn(2, 12, 5)
    extra = torch.randn(2, extra.shape[1], 5)
    index = index_of(keep, extra)
    packed = gather_tokens(patches, extra, index)
    new_patches, new_extra = scatter_tokens(packed, patches, extra, index)
    assert torch.equal(new_patches, patches)
    assert torch.equal(new_extra, extra)


@KEEPS
@EXTRAS
def test_half_precision_comes_back_in_the_dtype_of_the_map(keep, extra):
    index = index_of(keep, extra)
    packed = gather_tokens(PATCHES, extra, index).half()
    patches, new_extra = scatter_tokens(packed, PATCHES, extra, index)
    assert patches.dtype == new_extra.dtype == torch.float32
    assert torch.equal(patches, PATCHES)  # whole numbers below 2048 survive half precision
    assert torch.equal(new_extra, extra)


def test_scatter_leaves_its_inputs_alone():
    patches, extra = PATCHES.clone(), EXTRA.clone()
    index = index_of(FOUR_AND_TWO, EXTRA)
    scatter_tokens(gather_tokens(patches, extra, index) + 1, patches, extra, index)
    assert torch.equal(patches, PATCHES)
    assert torch.equal(extra, EXTRA)


def test_gradients_go_to_the_packed_rows_and_to_the_skipped_tokens():
    patches = PATCHES.clone().requires_grad_()
    index = index_of(THREE_AND_NONE)
    packed = torch.zeros(3, 1, requires_grad=True)
    written, _ = scatter_tokens(packed, patches, NO_EXTRA, index)
    written.sum().backward()
    assert values(packed.grad) == [1, 1, 1]
    assert torch.equal(patches.grad.squeeze(-1).bool(), ~THREE_AND_NONE.flatten(1))


@pytest.mark.parametrize(
    ("lengths", "uniform"), [((4, 4), True), ((4, 2), False), ((3,), True), ((0, 3), False)]
)
def test_segments_know_when_all_images_are_as_long(lengths, uniform):
    assert Segments(lengths).uniform is uniform
