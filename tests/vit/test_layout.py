"""Rows on a 3 x 4 grid: token n of image b is 100 b + n, extra tokens are negative."""

import pytest
import torch

from svit_det.tokens import Selection, TokenGrid, TokenState, everyone
from svit_det.vit.executors import Masked, Packed, Padded
from svit_det.vit.layout import Layout

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


def a_state(extra=NO_EXTRA, patches=PATCHES, present=None):
    return TokenState(
        tokens=torch.cat([extra[: len(patches)], patches], dim=1),
        num_extra=extra.shape[1],
        grid=TokenGrid.of_tokens(3, 4),
        present=present,
    )


def packed_rows(state, keep):
    return Packed().enter(0, state, Selection(keep=keep.flatten(1)))


def values(tokens):
    return tokens.squeeze(-1).tolist()


def parts(buffer, num_extra):
    """(patch tokens, extra tokens) of a buffer."""
    return buffer[:, num_extra:], buffer[:, :num_extra]


# ------------------------------------------------------------------ where rows lie


def test_the_index_names_rows_image_by_image():
    layout = packed_rows(a_state(), FOUR_AND_TWO).layout
    assert layout.index.tolist() == [0, 3, 5, 11, 16, 17]
    assert layout.lengths == (4, 2)
    assert layout.num_rows == 6
    assert layout.cell(12).tolist() == [0, 3, 5, 11, 4, 5]


def test_every_token_in_order_needs_no_index():
    layout = Packed().enter(0, a_state(EXTRA), everyone(a_state(EXTRA))).layout
    assert layout.index is None and layout.cell(14) is None
    assert (layout.lengths, layout.shape, layout.num_rows) == ((14, 14), (2, 14), 28)


@pytest.mark.parametrize(
    ("keep", "shape"),
    [(FOUR_AND_TWO, None), (THREE_AND_NONE, None), (NOBODY, (2, 0)), (EVERYONE, (2, 12))],
)
def test_a_layout_knows_when_all_images_have_as_many_rows(keep, shape):
    layout = packed_rows(a_state(), keep).layout
    assert layout.shape == shape
    assert layout.lengths == tuple(keep.flatten(1).sum(dim=1).tolist())


def test_one_image_is_as_long_as_itself():
    state = a_state(patches=PATCHES[:1])
    layout = packed_rows(state, FOUR_AND_TWO[:1]).layout
    assert (layout.lengths, layout.shape) == ((4,), (1, 4))


def test_rows_of_a_ragged_layout_are_counted():
    assert Layout((0, 3), None).num_rows == 3


# ------------------------------------------------------------------ there and back


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
    state = a_state(extra)
    assert values(packed_rows(state, keep).gather(state.tokens)) == packed


def test_scatter_puts_rows_back_where_they_came_from():
    packed = torch.tensor([500.0, 501, 502, 503, 504, 505]).unsqueeze(-1)
    state = a_state()
    buffer = packed_rows(state, FOUR_AND_TWO).scatter(state.tokens, packed)
    assert values(buffer) == [
        [500, 1, 2, 501, 4, 502, 6, 7, 8, 9, 10, 503],
        [100, 101, 102, 103, 504, 505, 106, 107, 108, 109, 110, 111],
    ]


def test_scatter_with_extra_tokens():
    packed = torch.tensor([-10.0, -20, 501, 508, 510, -30, -40]).unsqueeze(-1)
    state = a_state(EXTRA)
    buffer = packed_rows(state, THREE_AND_NONE).scatter(state.tokens, packed)
    patches, extra = parts(buffer, 2)
    assert values(patches) == [
        [0, 501, 2, 3, 4, 5, 6, 7, 508, 9, 510, 11],
        [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111],
    ]
    assert values(extra) == [[-10, -20], [-30, -40]]


def test_an_image_may_lack_an_extra_token():
    """The second image has the first of two only; its place for the other stays as it is."""
    state = a_state(EXTRA, present=torch.tensor([[1, 1], [1, 0]]).bool())
    rows = packed_rows(state, FOUR_AND_TWO)
    assert rows.layout.lengths == (6, 3)
    packed = rows.gather(state.tokens)
    assert values(packed) == [-1, -2, 0, 3, 5, 11, -3, 104, 105]
    patches, extra = parts(rows.scatter(state.tokens, packed + 1000), 2)
    assert values(extra) == [[999, 998], [997, -4]]
    assert values(patches)[1] == [100, 101, 102, 103, 1104, 1105, *range(106, 112)]


@KEEPS
@EXTRAS
def test_round_trip_is_bit_identical(keep, extra):
    state = a_state(torch.randn(2, extra.shape[1], 5), torch.randn(2, 12, 5))
    rows = packed_rows(state, keep)
    assert torch.equal(rows.scatter(state.tokens, rows.gather(state.tokens)), state.tokens)


@KEEPS
@EXTRAS
def test_half_precision_comes_back_in_the_dtype_of_the_buffer(keep, extra):
    state = a_state(extra)
    rows = packed_rows(state, keep)
    buffer = rows.scatter(state.tokens, rows.gather(state.tokens).half())
    assert buffer.dtype == torch.float32
    assert torch.equal(buffer, state.tokens)  # whole numbers below 2048 survive half precision


@pytest.mark.parametrize("executor", [Packed(), Masked(), Padded(8)], ids=repr)
def test_scatter_leaves_its_inputs_alone(executor):
    state = a_state(EXTRA)
    before = state.tokens.clone()
    rows = executor.enter(0, state, Selection(keep=FOUR_AND_TWO.flatten(1)))
    rows.scatter(state.tokens, rows.gather(state.tokens) + 1)
    assert torch.equal(state.tokens, before)


def test_gradients_go_to_the_rows_and_to_the_skipped_tokens():
    patches = PATCHES.clone().requires_grad_()
    rows = packed_rows(a_state(), THREE_AND_NONE)
    packed = torch.zeros(3, 1, requires_grad=True)
    rows.scatter(patches, packed).sum().backward()
    assert values(packed.grad) == [1, 1, 1]
    assert torch.equal(patches.grad.squeeze(-1).bool(), ~THREE_AND_NONE.flatten(1))


# ------------------------------------------------------------------ values by row


SIX = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()


@pytest.mark.parametrize(
    ("executor", "rows", "patches", "extra"),
    [
        (Packed(), 6, [[11, 0, 0, 12, 13, 0], [0, 0, 15, 0, 0, 0]], [[10], [14]]),
        (Masked(), 14, [[11, 0, 0, 14, 15, 0], [0, 0, 20, 0, 0, 0]], [[10], [17]]),
        # Five rows an image; the second one's last three fill up.
        (Padded(5), 10, [[11, 0, 0, 12, 13, 0], [0, 0, 16, 0, 0, 0]], [[10], [15]]),
    ],
    ids=["packed", "masked", "padded"],
)
def test_values_by_row_come_back_to_the_buffer(executor, rows, patches, extra):
    """Rows of image 0: extra, kept patches; masked: extra, all patches. Values count from 10."""
    state = TokenState(
        tokens=torch.zeros(2, 7, 1), num_extra=1, grid=TokenGrid.of_tokens(2, 3), class_token=True
    )
    arranged = executor.enter(0, state, Selection(keep=SIX))
    assert arranged.layout.num_rows == rows
    counted = 10 + torch.arange(float(rows))
    spread = arranged.spread(torch.stack([counted, -counted]), 7)
    assert spread[:, 0, 1:].tolist() == patches
    assert spread[:, 0, :1].tolist() == extra
    assert torch.equal(spread[:, 1], -spread[:, 0])


def test_values_of_everyone_come_back_without_an_index():
    state = a_state(EXTRA)
    rows = Packed().enter(0, state, everyone(state))
    spread = rows.spread(torch.arange(28.0).unsqueeze(0), 14)
    assert spread[:, 0].tolist() == [list(range(14)), list(range(14, 28))]
