"""The supplementary's figures: rows, captions, numbers."""

import numpy as np
import pytest

from svit_det.visualization import Objects
from svit_det.visualization.figures import (
    attention_figure,
    mean_overlap,
    reuse_figure,
    usage_figure,
)


def test_overlap_of_consecutive_sets(picture_of):
    keep = np.array([[[1, 1]], [[1, 0]], [[1, 0]], [[0, 1]]], bool)
    assert mean_overlap(picture_of(keep), 1) == pytest.approx((1 + 0) / 2)
    assert mean_overlap(picture_of(keep), 3) == 1


def test_re_use_begins_where_the_first_model_decides(picture_of, keep_of, texts):
    one, other = picture_of(keep_of(5, [[2, 5]])), picture_of(keep_of(5, [[3, 5]]))
    drawn = reuse_figure([one, other], ["A", "B"], caption="weights w")
    assert texts.count("block 2: 50 %") == 1 and texts.count("block 2: 100 %") == 1
    assert not any(words.startswith("block 1:") for words in texts)
    assert "A: consecutive sets overlap by 100 %" in texts
    assert "Blocks 0 to 1 keep every token." in texts and texts[-1] == "weights w"
    assert drawn.shape[1] < 2400
    with pytest.raises(ValueError, match="pair up"):
        reuse_figure([one], [], caption="")


def test_the_dense_model_has_one_row(picture_of):
    assert reuse_figure([picture_of(np.ones((3, 1, 1), bool))], ["Dense"], caption="x").size


def test_usage_on_the_objects_and_off_them(picture_of, keep_of, texts):
    objects = Objects(boxes=np.array([[0.0, 0, 16, 16]]), classes=np.array([0]))
    picture = picture_of(keep_of(4, [[4, 1]]), patch=16, found=objects)
    nothing = picture_of(keep_of(4, [[4, 1]]), patch=16, found=objects.pick(np.array([], int)))
    usage_figure([picture, nothing, picture], caption="weights w " * 60)
    assert "1 object: foreground 100 %, background 25 %, all tokens 62 %" in texts
    assert "0 objects: background 62 %" in texts
    assert len([words for words in texts if "weights" in words]) > 1  # more than one line
    for wrong in ({"pictures": []}, {"pictures": [picture], "columns": 0}):
        with pytest.raises(ValueError, match=r"\.$"):
            usage_figure(**{"caption": "", **wrong})


def test_attention_of_every_block(picture_of, texts):
    attention = np.full((12, 1, 2), 0.1)
    picture = picture_of(np.ones((12, 1, 2), bool), attention=attention)
    attention_figure(picture, title="t", caption="weights w")
    assert "t" in texts and "weights w" in texts
    assert [f"block {n}" for n in range(12)] == [w for w in texts if w.startswith("block")]
    with pytest.raises(ValueError, match="no attention"):
        attention_figure(picture_of(np.ones((2, 1, 1), bool)), title="", caption="")
