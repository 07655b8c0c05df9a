"""Outlines that training would draw far larger or cut for a long time are refused."""

import numpy as np
import pytest
from detectron2.structures import masks
from fvcore.transforms.transform import CropTransform

from svit_det.annotations.polygons import LONGEST_IN_BOX, LONGEST_OUTLINE, polygons_problem

SIZE = 1000, 1000
IMAGE = [0, 0, 1000, 1000]


def flat(corners):
    return np.asarray(corners, float).ravel().tolist()


def zigzag(steps, *, step=1.0, left=500.0, top=500.0):
    """A thin outline that goes right and left again and again."""
    return flat([(left + step * (n % 2), top + 0.001 * n) for n in range(steps)])


def star(corners, centre=500.0, radius=400.0):
    """An odd number of corners; every side crosses all others."""
    angles = 2 * np.pi * np.arange(corners) * (corners // 2) / corners
    return flat(centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def circle(corners, centre=500, radius=400):
    angles = 2 * np.pi * np.arange(corners) / corners
    return flat(centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def traced_square(side, first=10):
    """A corner at every pixel along the border of a square."""
    run = np.arange(side) + first
    last = first + side
    there = [(x, first) for x in run] + [(last, y) for y in run]
    back = [(x + 1, last) for x in run[::-1]] + [(first, y + 1) for y in run[::-1]]
    return flat(there + back)


def problem(polygons, box, size=SIZE):
    return polygons_problem(polygons, box, *size, evaluated=False)


# ------------------------------------------------------------------ outlines far longer than boxes


@pytest.mark.parametrize(
    "box",
    [
        [500, 500, 0.05, 0.05],
        [500, 500, 300, 0.02],
        [500, 500, 0.02, 300],
        [999.95, 0, 500, 1000],  # training cuts the box where the image ends
        [-499.95, 0, 500, 1000],
        [0, 999.95, 1000, 500],
    ],
    ids=str,
)
def test_an_outline_that_is_far_longer_than_its_box(box):
    there_and_back = flat([(0, 0), (900, 900)] * 400)
    assert problem([there_and_back], box) == (
        "with an outline of more than 20,000 sides of its box: is the box right?"
    )


def test_a_box_that_training_takes_for_a_wider_one():
    there_and_back = flat([(0, 0), (900, 900)] * 400)
    said = problem([there_and_back], [0, 0, 9.9e-6, 100], (480, 1000))
    assert said and said.endswith("is the box right?")
    # Drawn as if in a tenth of a pixel.
    assert problem([zigzag(1000, step=1)], [500, 500, 0.001, 0.001]) is None


@pytest.mark.parametrize("box", [[500, 500, 5, 5], [500, 500, 0, 5], IMAGE], ids=str)
def test_outlines_that_fit_their_box_or_have_none(box):
    """Training leaves out a box without size."""
    assert problem([zigzag(300, step=5)], box) is None


def test_the_longest_outline_in_the_square_of_a_box(monkeypatch):
    """detectron2 draws no longer outline than this project allows in an image."""
    drawn = []

    def draw(polygons, height, width):
        for polygon in polygons:
            steps = np.abs(np.diff(polygon.reshape(-1, 2), axis=0)).max(axis=1)
            drawn.append(steps.sum())
        return np.zeros((height, width), bool)

    monkeypatch.setattr(masks, "polygons_to_bitmask", draw)
    for side in (0.05, 0.5, 5):
        steps = 200
        polygon = zigzag(steps, step=0.99 * LONGEST_IN_BOX * side / steps, left=0)
        assert problem([polygon], [0, 500, side, side]) is None
        half = np.array([0, 500, side / 2, 500 + side / 2])  # the smallest box found for it
        masks.rasterize_polygons_within_box([np.array(polygon)], half, 28)
    assert len(drawn) == 3 and max(drawn) < 1.2 * LONGEST_OUTLINE


# ------------------------------------------------------------------ outlines that cross themselves


def test_an_outline_that_crosses_itself_too_often():
    said = "with an outline whose sides meet more than 50,000 times"
    random = np.random.default_rng(0)
    assert problem([star(601)], IMAGE) == said
    assert problem([star(601, radius=0.01)], IMAGE) == said  # all in one pixel
    assert problem([flat(random.uniform(0, 1000, (600, 2)))], IMAGE) == said
    assert problem([star(201)] * 3, IMAGE) == said  # a crop cuts every polygon
    assert problem([star(201), circle(300)], IMAGE) is None


@pytest.mark.parametrize(
    ("number", "corners"), [(20, 300), (30, 100), (16, 316), (300, 20), (1200, 10)]
)
def test_an_object_of_many_parts(number, corners):
    """Only sides that meet count, however many corners the parts have."""
    parts = [circle(corners, 20 + 0.7 * place, 5) for place in range(number)]
    assert problem(parts, IMAGE) is None
    assert problem(parts[::-1], IMAGE) is None


def test_more_sides_than_may_meet():
    assert "meet more than 50,000 times" in problem([circle(50_001)], IMAGE)


@pytest.mark.parametrize(
    "polygon",
    [circle(20_000), traced_square(900), circle(3000) + [900.0, 500.0] * 5000, star(315)],
    ids=["circle", "traced", "padded", "star"],
)
def test_long_outlines_that_are_cut_quickly(polygon):
    assert problem([polygon], IMAGE) is None
    crop = CropTransform(100, 100, 700, 700, orig_w=1000, orig_h=1000)
    cut = crop.apply_polygons([np.array(polygon).reshape(-1, 2)])
    assert sum(map(len, cut)) < 100_000
