"""UsagePicture: typed-out keep maps, and the numbers that follow from them."""

import numpy as np
import pytest

from svit_det.tokens import TokenGrid
from svit_det.visualization import (
    KEPT,
    REACTIVATED,
    SKIPPED_FOR_GOOD,
    USED_LATER,
    Objects,
    UsagePicture,
    UsageScale,
    depth_map,
    token_fates,
)
from svit_det.visualization.objects import size_of


def boxes(*corners, **more):
    return Objects(boxes=np.array(corners, float), classes=np.zeros(len(corners), int), **more)


def test_depth_counts_blocks():
    keep = np.array([[[1, 1, 1]], [[0, 1, 0]], [[0, 1, 1]]], bool)
    assert depth_map(keep).tolist() == [[1, 3, 2]]


def test_the_four_fates():
    keep = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 1]], [[1, 0, 0, 1]], [[0, 0, 0, 0]]], bool)
    later, gone, back = USED_LATER, SKIPPED_FOR_GOOD, REACTIVATED
    assert token_fates(keep)[:, 0].tolist() == [
        [KEPT, KEPT, gone, later],
        [later, gone, gone, back],
        [back, gone, gone, KEPT],
        [gone, gone, gone, gone],
    ]


def test_shares_returns_and_the_first_block_that_decides(picture_of):
    keep = np.array([[[1, 1]], [[1, 1]], [[1, 0]], [[0, 1]], [[1, 1]]], bool)
    picture = picture_of(keep)
    assert picture.first_deciding == 2
    assert picture.shares.tolist() == [1, 1, 0.5, 0.5, 1]
    assert picture.returns.tolist() == [[1, 1]]
    assert picture.reactivated_shares().tolist() == [0, 0, 0, 1, 0.5]
    assert picture_of(np.ones((3, 1, 1), bool)).first_deciding == 3


def test_usage_on_objects_and_off_them(picture_of, keep_of):
    picture = picture_of(keep_of(4, [[4, 2], [1, 1]]), patch=8)
    left_top = boxes([0, 0, 8, 8])
    assert picture.split(left_top)[0].tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(picture.split(left_top)[1], [1, 1 / 3, 0, 0])
    none = picture.split(left_top.pick(np.zeros(1, bool)))
    assert np.isnan(none[0]).all() and none[1].tolist() == [1, 0.5, 0.25, 0.25]


def test_an_object_counts_its_pixels_even_where_it_covers_no_token(picture_of, keep_of):
    picture = picture_of(keep_of(4, [[4, 2]]), patch=8)
    # Two columns of pixels in the left token, one in the right.
    np.testing.assert_allclose(picture.object_usage(boxes([6, 0, 9, 1])), [[1, 1, 2 / 3, 2 / 3]])
    assert picture.object_usage(boxes([1, 1, 1, 1])).tolist() == [[1, 1, 1, 1]]
    assert picture.object_usage(boxes([0, 0, 1, 1]).pick(np.array([], int))).shape == (0, 4)


def test_masks_count_before_boxes():
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, 0] = True
    objects = boxes([0, 0, 4, 4], masks=mask)
    assert objects.areas((4, 4)).tolist() == [1]
    assert boxes([0, 0, 4, 2]).covered((4, 4)).sum() == 8


@pytest.mark.parametrize(
    ("area", "word"),
    [(1, "small"), (1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")],
)
def test_sizes_are_those_of_coco(area, word):
    assert size_of(area) == word


def test_a_scale_covers_what_occurs(picture_of, keep_of):
    pictures = [picture_of(keep_of(12, [[depth, 7]])) for depth in (3, 9)]
    scale = UsageScale.over(pictures)
    assert (scale.low, scale.high, scale.count) == (3, 9, 7)
    assert UsageScale.full(12).count == 13
    with pytest.raises(ValueError, match="runs from 3 to 9"):
        scale.paint(np.array([10]))
    with pytest.raises(ValueError, match="at least one picture"):
        UsageScale.over([])


def test_one_scale_gives_one_number_one_colour(picture_of, keep_of):
    scale = UsageScale.full(12)
    assert scale.paint(np.array([0, 12])).tolist() == [[13, 8, 135], [240, 249, 33]]
    assert UsageScale(low=5, high=5, layers=12).paint(np.array(5)).tolist() == [240, 249, 33]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((8, 8), np.uint8)},
        {"image": np.zeros((8, 8, 3), np.float32)},
        {"image": np.zeros((0, 8, 3), np.uint8)},
        {"keep": np.ones((3, 1, 1), int)},
        {"keep": np.ones((1, 1), bool)},
        {"keep": np.ones((0, 1, 1), bool)},
        {"keep": np.ones((3, 2, 1), bool)},
        {"attention": np.ones((2, 1, 1))},
        {"attention": np.full((3, 1, 1), -0.1)},
        {"attention": np.full((3, 1, 1), np.nan)},
    ],
)
def test_what_does_not_fit_together_is_refused(picture_of, wrong):
    good = {"image": np.zeros((8, 8, 3), np.uint8), "keep": np.ones((3, 1, 1), bool)}
    good["grid"] = TokenGrid((8, 8), 8)
    UsagePicture(**good)
    with pytest.raises(ValueError, match=r"\.$"):
        UsagePicture(**{**good, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"boxes": np.zeros((2, 4))},
        {"scores": np.zeros(2)},
        {"masks": np.zeros((2, 4, 4), bool)},
    ],
)
def test_objects_pair_up(wrong):
    good = {"boxes": np.zeros((1, 4)), "classes": np.zeros(1, int)}
    Objects(**good)
    with pytest.raises(ValueError, match="must be"):
        Objects(**{**good, **wrong})
