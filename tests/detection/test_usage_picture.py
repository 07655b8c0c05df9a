"""From detectron2's structures and COCO's json to the arrays that are drawn."""

import json

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


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": 3}'])
def test_what_is_no_set_is_said_in_a_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.json: not a COCO instance file"):
        Annotations(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        Annotations(str(tmp_path / "gone.json"))


def test_boxes_alone(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "categories": [{"id": 7, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    objects = Annotations(str(tmp_path / "x.json")).of("folder/a.png")
    assert objects.masks is None and objects.boxes.tolist() == [[1, 1, 3, 3]]
