"""TokenState and Selection: views of one buffer, and the mask over it."""

from dataclasses import replace

import pytest
import torch

from svit_det.tokens import BlockParts, Selection, TokenGrid, TokenState, everyone

PRESENT = torch.tensor([[1, 1], [1, 0]]).bool()
KEEP = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()


def a_state(num_extra=2, **fields):
    """Two images of a 2 x 3 grid; token n of image b is 100 b + n, extra tokens are negative."""
    patches = torch.stack([torch.arange(6.0), 100 + torch.arange(6.0)])
    extra = -torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :num_extra]
    tokens = torch.cat([extra, patches], dim=1).unsqueeze(-1)
    grid = TokenGrid.of_tokens(2, 3)
    return TokenState(tokens=tokens, num_extra=num_extra, grid=grid, **fields)


def values(tokens):
    return tokens.squeeze(-1).tolist()


@pytest.mark.parametrize("num_extra", [0, 1, 2])
def test_extra_and_patch_tokens_are_views_of_one_buffer(num_extra):
    state = a_state(num_extra)
    assert values(state.extra) == [[-1, -2][:num_extra], [-3, -4][:num_extra]]
    assert values(state.patches) == [[0, 1, 2, 3, 4, 5], [100, 101, 102, 103, 104, 105]]
    assert state.num_patches == 6
    for view in (state.extra, state.patches):
        assert view.untyped_storage().data_ptr() == state.tokens.untyped_storage().data_ptr()


@pytest.mark.parametrize("num_extra", [0, 2])
def test_other_patch_tokens_leave_the_extra_tokens(num_extra):
    state = a_state(num_extra)
    other = state.with_patches(state.patches + 1000)
    assert torch.equal(other.extra, state.extra)
    assert torch.equal(other.patches, state.patches + 1000)
    assert values(state.patches)[0] == [0, 1, 2, 3, 4, 5]


def test_one_more_extra_token_lies_behind_the_others():
    state = a_state(1)
    more = state.with_more(torch.tensor([[[-8.0]], [[-9.0]]]), present=PRESENT)
    assert values(more.extra) == [[-1, -8], [-3, -9]]
    assert torch.equal(more.patches, state.patches)
    assert (more.num_extra, more.present) == (2, PRESENT)
    assert state.with_more(state.extra).present is None


def test_one_more_extra_token_takes_the_dtype_of_the_buffer():
    assert a_state(1).with_more(torch.zeros(2, 1, 1).half()).tokens.dtype == torch.float32


def test_presence():
    assert a_state(2).presence().tolist() == [[True, True], [True, True]]
    assert a_state(0).presence().shape == (2, 0)
    assert a_state(2, present=PRESENT).presence() is PRESENT


def test_one_image_of_a_batch():
    state = a_state(2, present=PRESENT, class_token=True, notes={"A": 1}, history=("block",))
    second = state.image(1)
    assert values(second.tokens) == [[-3, -4, 100, 101, 102, 103, 104, 105]]
    assert second.present.tolist() == [[True, False]]
    assert second.class_token and second.num_extra == 2
    assert second.notes == {} and second.history == ()
    assert a_state(2).image(0).present is None


def test_the_mask_over_the_buffer():
    assert Selection(keep=KEEP).mask(a_state(0).presence()) is KEEP
    all_present = Selection(keep=KEEP).mask(a_state(2).presence())
    assert all_present.int().tolist() == [[1, 1, 1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 1, 0, 0, 0]]


def test_an_extra_token_runs_where_it_is_present_and_selected():
    extra = torch.tensor([[1, 0], [1, 1]]).bool()
    mask = Selection(keep=KEEP, extra=extra).mask(a_state(2, present=PRESENT).presence())
    assert mask[:, :2].tolist() == [[True, False], [True, False]]


def test_only_in_some_images():
    state = a_state(2, present=PRESENT)
    selection = Selection(keep=KEEP, total=4, gate=KEEP.float())
    second = selection.only_in(torch.tensor([False, True]), state.presence())
    assert second.keep.tolist() == [[False] * 6, KEEP[1].tolist()]
    assert second.extra.tolist() == [[False, False], [True, False]]
    assert torch.equal(second.gate, second.keep.float())
    assert second.total is None


def test_everyone_is_known_without_looking():
    assert everyone(a_state(2)).total == 8
    assert everyone(a_state(0)).keep.all()
    assert everyone(a_state(2, present=PRESENT)).total is None


@pytest.mark.parametrize("name", ["keep", "extra", "gate", "soft_keys", "parts"])
def test_another_tensor_means_other_rows(name):
    parts = BlockParts(*(torch.ones(2, dtype=torch.bool) for _ in range(3)))
    selection = Selection(keep=KEEP, extra=PRESENT, gate=KEEP.float(), soft_keys=KEEP.float())
    selection = replace(selection, parts=parts)
    assert selection.same_rows(replace(selection, score=KEEP.float(), macs=7))
    other = replace(parts) if name == "parts" else getattr(selection, name).clone()
    assert not selection.same_rows(replace(selection, **{name: other}))


def test_one_more_token_leaves_the_others_where_they_were():
    state = a_state(2, present=PRESENT)
    more = state.with_more(torch.ones(2, 1, state.tokens.shape[2]))
    assert more.present.tolist() == [[*row, True] for row in PRESENT.tolist()]
    assert a_state(2).with_more(torch.ones(2, 1, state.tokens.shape[2])).present is None
