"""Charts of several policies: what lands where in the picture, read back from its pixels."""

import cv2
import numpy as np
import pytest

from svit_det.visualization import comparison_charts
from svit_det.visualization.comparison_charts import (
    Point,
    draw_quality_over_cost,
    draw_share_table,
)


def test_a_cell_is_the_darker_the_fewer_tokens(tmp_path):
    path = tmp_path / "shares.png"
    draw_share_table({"one": [1.0, 0.5, 0.0], "two": [1.0, 1.0, 1.0]}, path)
    picture = cv2.imread(str(path))
    assert picture.shape[0] < picture.shape[1]
    # viridis: yellow for 1, purple for 0; seven cells in a line of the picture's middle rows
    yellow = (picture[..., 2] > 240) & (picture[..., 0] < 60)
    purple = (abs(picture.astype(int) - (84, 1, 68)).sum(axis=-1)) < 12
    assert yellow.sum() / purple.sum() == pytest.approx(4, rel=0.2)
    assert np.nonzero(yellow)[1].min() < np.nonzero(purple)[1].min()


def test_points_lie_by_cost_and_quality(tmp_path):
    path = tmp_path / "over_cost.png"
    points = {
        "random_25": Point(4.0, [60.0]),
        "random_75": Point(8.0, [64.0, 66.0]),
        "svit": Point(6.0, [66.0, 68.0]),
    }
    draw_quality_over_cost(
        points,
        path,
        lines={"random": ["random_75", "random_25"]},
        cost_label="GMACs",
        value_label="box AP",
    )
    picture = cv2.imread(str(path)).astype(int)
    green = (abs(picture - (44, 160, 44)).sum(axis=-1)) < 30  # C2, the third entry
    grey = (abs(picture - (89, 89, 89)).sum(axis=-1)) < 6
    assert green.any() and grey.any()
    # The point stands above the line, between its ends.
    assert np.nonzero(green)[0].mean() < np.nonzero(grey)[0].mean()
    columns = np.nonzero(grey)[1]
    assert columns.min() < np.nonzero(green)[1].mean() < columns.max()


def test_names_of_neighbours_do_not_cover_each_other(monkeypatch, tmp_path):
    points = {f"name_{number}": Point(4.0 + 0.02 * number, [70.0 + number]) for number in range(4)}
    points["far"] = Point(1.0, [10.0])
    places, write = [], comparison_charts._write_names

    def watched(axes, named):
        write(axes, named)
        places.extend(text.get_window_extent() for text in axes.texts)

    monkeypatch.setattr(comparison_charts, "_write_names", watched)
    words = {"cost_label": "GMACs", "value_label": "AP"}
    draw_quality_over_cost(points, tmp_path / "a.png", lines={}, **words)
    assert len(places) == len(points)
    for number, place in enumerate(places):
        assert not any(place.overlaps(other) for other in places[:number])
