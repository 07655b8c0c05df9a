"""DeiT's layers on packed rows: a row is a token, an image is a run of rows."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.vit.layers import DropPath, PatchEmbed, per_image
from svit_det.vit.layout import Layout
from svit_det.vit.position import resize_pos_embed, sincos_pos_embed


def layout_of(*lengths):
    """How rows of so many tokens an image lie."""
    equal = len(set(lengths)) == 1
    return Layout(lengths, (len(lengths), lengths[0]) if equal else None)


# ------------------------------------------------------------------ patches


def test_a_patch_is_one_token():
    embed = PatchEmbed(patch_size=2, in_channels=1, embed_dim=1)
    with torch.no_grad():
        embed.proj.weight.copy_(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
        embed.proj.bias.fill_(0.5)
    image = torch.tensor([[[[1.0, 2, 5, 6], [3, 4, 7, 8]]]])
    assert embed(image).tolist() == [[[[4321.5, 8765.5]]]]


@pytest.mark.parametrize(("height", "width"), [(10, 8), (8, 10), (7, 7)])
def test_an_image_that_does_not_divide_into_patches(height, width):
    embed = PatchEmbed(patch_size=4, in_channels=3, embed_dim=8)
    with pytest.raises(InputError, match=f"{height} x {width} pixels .* patches of 4"):
        embed(torch.zeros(1, 3, height, width))


# ------------------------------------------------------------------ stochastic depth


def test_drop_path_rests_outside_training():
    rows = torch.randn(6, 4)
    assert DropPath(0.5).eval()(rows, layout_of(2, 4)) is rows
    assert DropPath(0.0).train()(rows, layout_of(2, 4)) is rows


def test_all_rows_of_an_image_share_one_draw():
    drop = DropPath(0.25).train()
    lengths = (3, 0, 1, 5)
    seen = set()
    for _ in range(400):
        images = drop(torch.ones(9, 2), layout_of(*lengths)).split(lengths)
        assert [len(image.unique()) for image in images] == [1, 0, 1, 1]
        seen.add(tuple(image.unique().item() for image in images if len(image)))
    # Kept rows are divided by 0.75; the images fall independently: all eight ways occur.
    assert {value for draw in seen for value in draw} == {0.0, torch.tensor(1 / 0.75).item()}
    assert len(seen) == 8


def test_drop_path_keeps_the_mean():
    dropped = DropPath(0.3).train()(torch.ones(20_000, 1), layout_of(*[1] * 20_000))
    # The standard error is sqrt(0.3 / 0.7 / 20000) = 0.0046.
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.015)


def test_the_draw_does_not_depend_on_how_many_rows_are_packed():
    drop = DropPath(0.5).train()
    draws = []
    for lengths in ((4, 4, 4, 4, 4, 4), (1, 2, 3, 4, 5, 6)):
        torch.manual_seed(11)
        rows = drop(torch.ones(sum(lengths), 1), layout_of(*lengths))
        draws.append([image[0].item() for image in rows.split(lengths)])
    assert draws[0] == draws[1]


@pytest.mark.parametrize("lengths", [(2, 2), (1, 3), (0, 2)])
def test_each_row_has_the_value_of_its_image(lengths):
    rows = per_image(torch.tensor([5.0, 7.0]), layout_of(*lengths))
    assert rows.tolist() == [[5.0]] * lengths[0] + [[7.0]] * lengths[1]


# ------------------------------------------------------------------ positions


def test_the_same_grid_takes_the_embedding_as_it_is():
    embedding = torch.randn(1, 6, 4)
    assert resize_pos_embed(embedding, (2, 3), (2, 3)) is embedding


def test_a_constant_embedding_stays_constant():
    resized = resize_pos_embed(torch.full((1, 6, 4), 2.5), (2, 3), (5, 4))
    assert_close(resized, torch.full((1, 20, 4), 2.5))


def test_rows_and_columns_keep_their_directions():
    columns = torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3]]).reshape(1, 8, 1)
    resized = resize_pos_embed(columns, (2, 4), (6, 8)).reshape(6, 8)
    assert_close(resized, resized[:1].expand(6, 8))
    assert (resized[0].diff() > 0).all()


def test_resizing_is_bicubic_without_aligned_corners():
    embedding = torch.randn(1, 6, 4)
    maps = embedding[0].T.reshape(1, 4, 2, 3)
    expected = F.interpolate(maps, size=(3, 7), mode="bicubic", align_corners=False)
    assert_close(resize_pos_embed(embedding, (2, 3), (3, 7)), expected.reshape(4, 21).T[None])


def test_sines_and_cosines_of_a_small_grid():
    # Four channels have one frequency, 1: sin and cos of the row, then of the column.
    sin, cos = 0.8414710, 0.5403023  # of 1 radian
    expected = torch.tensor(
        [[0, 1, 0, 1], [0, 1, sin, cos], [sin, cos, 0, 1], [sin, cos, sin, cos]]
    )
    assert_close(sincos_pos_embed((2, 2), 4), expected[None])


def test_a_width_of_no_multiple_of_four_ends_in_zeros():
    embedding = sincos_pos_embed((2, 3), 10)
    assert embedding.shape == (1, 6, 10)
    assert embedding[..., :8].any(dim=1).all()
    assert not embedding[..., 8:].any()


def test_the_second_frequency_is_a_hundredth_of_the_first():
    # Eight channels: frequencies 1 and 10000 ** -0.5.
    third_column = sincos_pos_embed((1, 3), 8)[0, 2]
    expected = torch.tensor([0, 0, 1, 1, 0.9092974, 0.0199987, -0.4161468, 0.9998000])
    assert_close(third_column, expected)
