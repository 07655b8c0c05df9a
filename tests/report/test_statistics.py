"""What is counted over a set, from typed-out keep maps."""

import json
import re

import numpy as np
import pytest

from svit_det.report.charts import LETTER, WIDTH, Bars, Line, bar_chart, line_chart
from svit_det.report.statistics import ArmStatistics
from svit_det.results import finite
from svit_det.tokens import TokenGrid
from svit_det.visualization import Objects, UsagePicture


def picture(keep, box, *, found=True, name="a"):
    keep = np.array(keep, bool)
    grid = TokenGrid.of_tokens(*keep.shape[1:], patch_size=8)
    objects = Objects(
        boxes=np.array([box], float), classes=np.array([0]), scores=np.array([1.0]), names=("nut",)
    )
    return UsagePicture(
        image=np.zeros((*grid.input_size, 3), np.uint8),
        keep=keep,
        grid=grid,
        name=name,
        found=objects if found else None,
        annotated=None if found else objects,
        macs=(1.0, 4.0),
    )


# Block 0 keeps both tokens, block 1 the left one, block 2 the right one.
KEEP = [[[1, 1]], [[1, 0]], [[0, 1]]]


def test_a_dropped_picture_does_not_count():
    alone, both = ArmStatistics(label="x"), ArmStatistics(label="x")
    alone.add(picture(KEEP, [0, 0, 8, 8], name="a"))
    for name, keep in (("b", [[[1, 1]], [[1, 1]], [[1, 1]]]), ("a", KEEP)):
        both.add(picture(keep, [0, 0, 8, 8], name=name))
    assert finite(both.as_json()) != finite(alone.as_json())
    both.drop("b")
    both.drop("never added")
    assert finite(both.as_json()) == finite(alone.as_json())


def test_the_numbers_of_one_picture():
    row = ArmStatistics(label="x").add(picture(KEEP, [0, 0, 8, 8]))
    assert (row.found, row.kept, row.macs) == (1, pytest.approx(2 / 3), 0.25)
    assert (row.on_found, row.off_found) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert np.isnan(row.on_annotated)
    assert row.reactivated == pytest.approx(1 / 4)  # of four runs, that of block 2


def test_the_numbers_of_a_set():
    arm = ArmStatistics(label="x")
    arm.add(picture(KEEP, [0, 0, 8, 8]))
    arm.add(picture(np.ones((3, 1, 2)), [0, 0, 8, 8], name="b"))
    assert arm.shares[1].tolist() == [1, 0.75, 0.75]
    assert arm.on_and_off.tolist() == [[1, 1, 0.5], [1, 0.5, 1]]
    assert arm.reactivated.tolist() == [0, 0, pytest.approx(1 / 3)]
    assert arm.by_class() == {"nut": (pytest.approx(5 / 6), 2)}
    by_size = arm.by_size()
    assert by_size["small"] == (pytest.approx(5 / 6), 2) and by_size["large"][1] == 0
    assert arm.object_source == "detections"
    content = json.loads(json.dumps(finite(arm.as_json()), allow_nan=False))
    assert content["kept_share_by_size"]["large"] == [None, 0]


def test_annotations_come_before_detections():
    arm = ArmStatistics(label="x")
    row = arm.add(picture(KEEP, [0, 0, 8, 8], found=False))
    assert arm.object_source == "annotations" and row.found == 0 and np.isnan(row.on_found)
    arm.add(picture(KEEP, [0, 0, 8, 8], name="b"))
    assert arm.object_source == "annotations where there are any, else detections"


def test_a_picture_without_objects_leaves_no_share_of_them():
    arm = ArmStatistics(label="x")
    arm.add(picture(KEEP, [0, 0, 8, 8]))
    empty = picture(KEEP, [0, 0, 8, 8], name="b")
    object.__setattr__(empty, "found", empty.found.pick(np.array([], int)))
    row = arm.add(empty)
    assert row.found == 0 and np.isnan(row.on_found) and row.off_found == pytest.approx(2 / 3)
    assert arm.on_and_off[0].tolist() == [1, 1, 0]  # the first picture alone


def test_gaps_stay_gaps():
    values = np.array([1, np.nan, 0.5, 0.25])
    drawn = line_chart([Line(label="<a>", values=values, arm=0)], title="t")
    assert drawn.count("<polyline") == 2 and drawn.count("<circle") == 3
    assert "<a>" not in drawn and "&lt;a&gt;" in drawn
    assert "nan" not in line_chart([Line(label="x", values=values * np.nan, arm=0)], title="t")


def test_bars_have_their_share_and_count():
    bars = Bars(label="x", values=[0.5, float("nan")], counts=[1, 0], arm=1)
    drawn = bar_chart(["<b>" * 20, "none"], [bars], title="t")
    assert "50 %, 1 object<" in drawn and ">none<" in drawn
    assert "<b>" not in drawn and "nan" not in drawn and "…" in drawn


@pytest.mark.parametrize("count", [1, 375, 1_234_567])
def test_the_words_beside_a_bar_have_room(count):
    bars = Bars(label="svit", values=[1.0, 0.5], counts=[count, 2], arm=0)
    drawn = bar_chart(["nucleus", "cell"], [bars], title="t")
    bar = re.search(r'<rect class="ground" x="(\d+)" y="[\d.]+" width="([\d.]+)"', drawn)
    words = f"100 %, {count:,} object{'s' * (count != 1)}"
    assert words in drawn
    assert float(bar[1]) + float(bar[2]) + 8 + LETTER * len(words) <= WIDTH
