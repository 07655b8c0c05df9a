"""Keep maps and attention maps: tints, captions, layout, bounds."""

import numpy as np
import pytest

from svit_det.visualization import draw_attention_maps, draw_keep_maps

FEWEST, MOST = (13, 8, 135), (240, 249, 33)


def colours_in(drawn):
    return {tuple(map(int, colour)) for colour in np.unique(drawn.reshape(-1, 3), axis=0)}


def test_keep_maps_tint_each_fate_apart_and_leave_kept_tokens_alone(picture_of, texts):
    keep = np.array([[[1, 1]], [[0, 0]], [[1, 0]]], bool)
    drawn = draw_keep_maps(picture_of(keep), columns=1)
    kept, back, later, gone = (201, 201, 201), (111, 201, 174), (211, 143, 60), (52, 84, 136)
    tiles = drawn[:, 100]  # a column through the left token of both tiles
    assert (tiles == later).all(axis=-1).sum() >= 240  # block 1
    assert (tiles == back).all(axis=-1).sum() >= 240  # block 2
    assert (drawn == gone).all(axis=-1).any()
    assert (drawn == kept).all(axis=-1).sum() < 100  # the edges of letters
    assert texts[:3] == ["block 1: 0 % kept", "block 2: 50 % kept", "Block 0 keeps every token."]
    assert texts[3:] == [
        "kept",
        "kept, skipped by the block before",
        "skipped, kept again later",
        "skipped for good",
    ]


def test_blocks_that_keep_all_are_left_out_unless_wanted(picture_of, keep_of, texts):
    picture = picture_of(keep_of(5, [[3, 5]]))
    draw_keep_maps(picture)
    assert texts[0] == "block 3: 50 % kept" and "Blocks 0 to 2 keep every token." in texts
    texts.clear()
    draw_keep_maps(picture, all_blocks=True)
    assert texts[:2] == ["block 0: 100 % kept", "block 1: 100 % kept"]
    texts.clear()
    draw_keep_maps(picture_of(np.ones((2, 1, 1), bool)))  # the dense model
    assert texts[:2] == ["block 0: 100 % kept", "block 1: 100 % kept"]


@pytest.mark.parametrize("shape", [(1, 1), (480, 640), (64, 6400), (6400, 64)])
@pytest.mark.parametrize("layers", [1, 12, 48])
def test_sheets_are_bounded_and_captions_whole(picture_of, image_of, texts, shape, layers):
    keep = np.zeros((layers, 1, 1), bool)
    drawn = draw_keep_maps(picture_of(keep, image=image_of(*shape)), columns=4)
    assert drawn.shape[1] < 2300 and drawn.shape[0] < 4000
    assert f"block {layers - 1}: 0 % kept" in texts


def test_attention_is_scaled_to_each_blocks_maximum(picture_of, texts):
    attention = np.array([[[0.2, 0.4]], [[0.03, 0.0]]])
    picture = picture_of(np.ones((2, 1, 2), bool), attention=attention)
    drawn = draw_attention_maps(picture, columns=1)
    most, least = (
        tuple(map(int, np.round(0.65 * np.array(end) + 0.35 * (201 / 2 + 64))))
        for end in (MOST, FEWEST)
    )
    assert {most, least} <= colours_in(drawn)
    assert texts == ["block 0: 60 % on patches", "block 1: 3 % on patches"]


def test_what_cannot_be_drawn_is_refused(picture_of):
    picture = picture_of(np.ones((2, 1, 2), bool))
    with pytest.raises(ValueError, match="no attention"):
        draw_attention_maps(picture)
    with pytest.raises(ValueError, match="columns"):
        draw_keep_maps(picture, columns=0)
