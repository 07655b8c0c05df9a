"""The heat map and its colour bar, pixel by pixel."""

import numpy as np
import pytest

from svit_det.visualization import UsageScale, draw_heatmap, paint_heatmap

FEWEST, MOST = (13, 8, 135), (240, 249, 33)


def test_each_token_is_coloured_up_to_its_border(picture_of, keep_of):
    drawn = paint_heatmap(picture_of(keep_of(4, [[0, 4], [4, 0]])), (512, 512), alpha=1)
    expected = np.full((512, 512, 3), MOST, np.uint8)
    expected[:256, :256] = expected[256:, 256:] = FEWEST
    np.testing.assert_array_equal(drawn, expected)


def test_the_range_that_occurs_gets_all_colours_unless_told_otherwise(picture_of, keep_of):
    picture = picture_of(keep_of(12, [[5, 6]]))
    drawn = paint_heatmap(picture, (256, 512), alpha=1)
    assert tuple(drawn[0, 0]) == FEWEST and tuple(drawn[0, 511]) == MOST
    full = paint_heatmap(picture, (256, 512), alpha=1, scale=UsageScale.full(12))
    assert tuple(full[0, 0]) not in (FEWEST, MOST)


def test_the_colour_is_mixed_with_the_grey_image(picture_of, keep_of, image_of):
    image = image_of(64, 64, (100, 0, 0))  # brightness 30, drawn with half the contrast: 79
    picture = picture_of(keep_of(4, [[4]]), patch=64, image=image)
    assert tuple(paint_heatmap(picture, (64, 64), alpha=0)[0, 0]) == (79, 79, 79)
    half = paint_heatmap(picture, (64, 64), alpha=0.5)[0, 0].astype(float)
    np.testing.assert_allclose(half, (np.array(MOST) + 79) / 2, atol=0.51)


def test_colour_bar_has_a_swatch_and_a_number_per_block(picture_of, keep_of, texts):
    picture = picture_of(keep_of(4, [[1, 4]]))
    drawn = draw_heatmap(picture, (400, 800), alpha=1, text=14)
    column = drawn[:400, 800 + 7]  # the gap is half a text height
    colours, starts = np.unique(column, axis=0, return_index=True)
    assert sorted(starts) == [0, 100, 200, 300] and len(colours) == 4
    assert tuple(column[0]) == MOST and tuple(column[-1]) == FEWEST
    assert texts == ["4", "3", "2", "1", "blocks per token, of 4"]


def test_text_has_the_size_that_was_asked_for_whatever_the_picture(picture_of, keep_of):
    """The colour bar of a very wide picture is not drawn large and shrunk."""
    bars = []
    for shape in ((200, 2000), (200, 100)):
        drawn = draw_heatmap(picture_of(keep_of(4, [[1, 4]])), shape, text=14)
        bars.append(drawn[:, shape[1] :])
    np.testing.assert_array_equal(*bars)


def test_numbers_of_a_low_colour_bar_do_not_touch(picture_of, keep_of, texts):
    draw_heatmap(picture_of(keep_of(24, [[0, 24]])), (16, 512))
    assert texts[0] == "24" and texts[-2:] == ["0", "blocks"] and len(texts) < 10


@pytest.mark.parametrize("alpha", [1.1, -0.1])
def test_alpha_is_a_share(picture_of, keep_of, alpha):
    with pytest.raises(ValueError, match="alpha"):
        paint_heatmap(picture_of(keep_of(4, [[1]])), (8, 8), alpha=alpha)
