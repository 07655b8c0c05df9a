"""From detectron2's structures and COCO's json to the arrays that are drawn."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from svit_det.detection.usage_picture import Annotations, found_objects
from svit_det.errors import InputError


def test_detections_below_the_score_do_not_count():
    instances = Instances((8, 8))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 4, 4], [1, 1, 2, 2]]))
    instances.scores = torch.tensor([0.9, 0.4])
    instances.pred_classes = torch.tensor([1, 0])
    objects = found_objects(instances, min_score=0.5, class_names=["a", "b"])
    assert objects.boxes.tolist() == [[0, 0, 4, 4]]
    assert objects.name(0) == "b" and objects.masks is None


def test_annotations_are_found_by_file_name(discs):
    annotations = Annotations(str(discs / "val.json"))
    objects = annotations.of(discs / "images/val_0.png")
    assert annotations.names == ("red", "blue")
    assert objects.classes.tolist() == [0, 1]  # the crowd region is no object
    for mask, (left, top, right, bottom) in zip(objects.masks, objects.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        assert abs(columns.min() - left) <= 1 and abs(columns.max() + 1 - right) <= 1
        assert abs(rows.min() - top) <= 1 and abs(rows.max() + 1 - bottom) <= 1
    assert len(annotations.of("val_3.png")) == 0
    assert annotations.of("elsewhere/other.png") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a json file"),
        ("[]", "not a COCO instance file"),
        ("{}", "not a COCO instance file"),
        ('{"images": 3}', "not a COCO instance file"),
    ],
)
def test_what_is_no_set_is_said_in_a_sentence(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"x\.json: {said}"):
        Annotations(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        Annotations(str(tmp_path / "gone.json"))


@pytest.fixture
def set_of(tmp_path):
    """Factory: the path of a set of one image of 4 x 6 pixels with these annotations."""

    def make(*annotations):
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
            "categories": [{"id": 7, "name": "x"}],
            "annotations": [
                {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]} | each
                for number, each in enumerate(annotations, start=1)
            ],
        }
        path = tmp_path / "x.json"
        path.write_text(json.dumps(content))
        return str(path)

    return make


def test_boxes_alone(set_of):
    objects = Annotations(set_of({})).of("folder/a.png")
    assert objects.masks is None and objects.boxes.tolist() == [[1, 1, 3, 3]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bbox": None}, "without 'bbox'"),
        ({"category_id": 9}, "of a category that is not listed"),
        ({"image_id": 9}, "of an image that is not listed"),
        ({"bbox": [1, 1, float("nan"), 2]}, "with nan, infinity or an absurd number in 'bbox'"),
        ({"segmentation": [[0, 0, 1e9, 0, 0, 1]]}, "a polygon that reaches far beyond its image"),
        ({"segmentation": {"size": [4, 6], "counts": [3]}}, "do not add up to its image"),
    ],
)
def test_what_cannot_be_used_is_said_by_the_check_of_annotations(set_of, fields, said):
    path = set_of(fields, {})
    with pytest.raises(InputError) as refusal:
        Annotations(path)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{path}: 1 of 2 annotations cannot be used: 1 annotation ")
    assert said in sentence and sentence.endswith("; correct them.")
    assert len(Annotations(path, skip_bad=True).of("a.png")) == 1


def test_masks_in_every_form(set_of):
    """Of a polygon with too few corners too, which training leaves out."""
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    runs = {"size": [4, 6], "counts": [5, 2, 2, 2, 13]}
    forms = ([square], [[1, 1], square], [[0, 0, 6, 4], square], runs)
    objects = Annotations(set_of(*({"segmentation": form} for form in forms))).of("a.png")
    wanted = np.zeros((4, 6), bool)
    wanted[1:3, 1:3] = True
    for mask in objects.masks:
        assert np.array_equal(mask, wanted)


def test_masks_of_a_large_picture_take_memory_one_by_one(set_of):
    side, many = 2000, 200
    squares = [[n, n, n + 9, n, n + 9, n + 9, n, n + 9] for n in range(many)]
    path = Path(set_of(*({"bbox": [*each[:2], 9, 9], "segmentation": [each]} for each in squares)))
    content = json.loads(path.read_text())
    content["images"][0] |= {"height": side, "width": side}
    path.write_text(json.dumps(content))
    tracemalloc.start()
    try:
        objects = Annotations(str(path)).of("a.png")
        few = objects.pick(np.arange(many) % 50 == 7)
        covered = few.covered((side, side))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert objects.masks.shape == (many, side, side) and objects.masks[-1].sum() == 81
    assert len(few) == 4 and few.areas((side, side)).tolist() == [81] * 4
    assert covered[57:66, 57:66].all() and covered.sum() == 4 * 81
    assert peak < 5 * side * side


def test_a_picture_of_another_size_than_the_json_says(set_of):
    annotations = Annotations(set_of({}))
    assert len(annotations.of("a.png", (4, 6))) == 1
    said = r"a\.png: 4 x 6 pixels, where the annotations say 6 x 4; correct the json"
    with pytest.raises(InputError, match=said):
        annotations.of("a.png", (6, 4))
