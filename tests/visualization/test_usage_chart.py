import os

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.visualization.usage_chart import draw_usage_chart

INSIDE = (0xD5, 0x5E, 0x00)  # the second row's colour
OUTSIDE = (0x00, 0x72, 0xB2)


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def drawn(path, **rows):
    draw_usage_chart({"all tokens": [1.0] * 12, **rows}, path)
    return read(path)


def centre(picture, colour):
    """Mean row of a colour's pixels, above the legend."""
    found = (picture == colour).all(axis=-1)
    return np.flatnonzero(found[: int(0.85 * len(found))].any(axis=1)).mean()


def test_writes_a_picture_of_the_asked_size_with_every_row(tmp_path):
    path = tmp_path / "usage.png"
    draw_usage_chart(
        {
            "all tokens": [1.0, 0.7, 0.4],
            "inside objects": [1.0, 0.9, 0.6],
            "outside objects": [1.0, 0.6, 0.3],
        },
        path,
        size=(5, 3),
        dpi=100,
    )
    picture = read(path)
    assert picture.shape == (300, 500, 3)
    for colour in ((0, 0, 0), INSIDE, OUTSIDE):
        assert (picture == colour).all(axis=-1).sum() > 50
    assert os.listdir(tmp_path) == ["usage.png"]


def test_the_scale_always_runs_from_0_to_100_percent(tmp_path):
    heights = [
        centre(drawn(tmp_path / "a.png", inside=[share] * 12), INSIDE) for share in (0, 0.5, 1)
    ]
    assert heights[0] - heights[2] > 400  # of 720 pixels
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=2)


def test_blocks_run_from_left_to_right(tmp_path):
    found = (drawn(tmp_path / "a.png", inside=[0.5] + [np.nan] * 11) == INSIDE).all(axis=-1)
    columns = np.flatnonzero(found[: int(0.85 * len(found))].any(axis=0))
    assert columns.size and columns.max() < 0.2 * found.shape[1]


def test_a_share_that_does_not_exist_leaves_a_gap(tmp_path):
    whole = (drawn(tmp_path / "a.png", inside=[0.5] * 12) == INSIDE).all(axis=-1)
    gap = (drawn(tmp_path / "a.png", inside=[0.5] * 4 + [np.nan] * 4 + [0.5] * 4) == INSIDE).all(
        axis=-1
    )
    none = (drawn(tmp_path / "a.png", inside=[np.nan] * 12) == INSIDE).all(axis=-1)
    assert 0.5 < gap.sum() / whole.sum() < 0.85
    assert not none[: int(0.85 * len(none))].any()


def test_names_and_title_are_drawn(tmp_path):
    rows = {"all tokens": [0.5, 0.5]}
    draw_usage_chart(rows, tmp_path / "a.png")
    draw_usage_chart({"other name": [0.5, 0.5]}, tmp_path / "b.png")
    draw_usage_chart(rows, tmp_path / "c.png", title="nuclei")
    a, b, c = (read(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    last = int(0.9 * len(a))
    assert not np.array_equal(a[last:], b[last:])
    above = slice(0, 40), slice(500, 800)
    assert a[above].min() > 200 and c[above].min() < 50


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"a": []},
        {"a": [0.5, 0.5], "b": [0.5]},
        {"a": [[0.5]]},
        {"a": [61.0]},
        {"a": [-0.1]},
        {"a": [float("inf")]},
    ],
)
def test_bad_rows_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"\.$"):
        draw_usage_chart(rows, tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_one_block_and_many_rows(tmp_path):
    draw_usage_chart({f"row {i}": [i / 10] for i in range(8)}, tmp_path / "a.png")
    draw_usage_chart({"deep": np.linspace(1, 0, 48)}, tmp_path / "b.jpg")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.jpg"]


def test_an_unwritable_place_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(.*\)\.$"):
        draw_usage_chart({"a": [0.5]}, tmp_path / "file" / "a.png")
