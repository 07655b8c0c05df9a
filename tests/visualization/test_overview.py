"""Detections on a picture, and the row of annotations, detections and heat map."""

from dataclasses import replace

import numpy as np
import pytest

from svit_det.visualization import Objects, draw_objects, draw_overview
from svit_det.visualization.canvas import text_size
from svit_det.visualization.object_drawing import labels_of, object_colours
from svit_det.visualization.overview import row


def objects(count, *, names=("a", "b"), masks=None, scores=True):
    corners = np.array([[2.0, 2.0, 12.0, 12.0]] * count).reshape(-1, 4)
    return Objects(
        boxes=corners,
        classes=np.arange(count) % max(len(names), 1),
        scores=np.full(count, 0.874) if scores else None,
        masks=masks,
        names=names,
    )


def test_masks_are_tinted_and_boxes_outlined(image_of):
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 4:10, 4:10] = True
    drawn = draw_objects(image_of(16, 16), objects(1, names=("one",), masks=mask), (160, 160))
    assert (drawn[0:30] == 201).all() and not (drawn[60:80, 60:80] == 201).any()
    boxed = draw_objects(image_of(16, 16), objects(1, names=("one",)), (160, 160))
    assert (boxed[60:80, 60:80] == 201).all() and not (boxed[20, 60:80] == 201).all()


def test_labels_are_for_a_few_objects_of_several_classes():
    assert labels_of(objects(2)) == ["a 87 %", "b 87 %"]
    assert labels_of(objects(1, scores=False)) == ["a"]
    assert labels_of(objects(16)) == [""] * 16
    assert labels_of(objects(2, names=("one",))) == ["", ""]


def test_a_class_has_one_colour_and_one_class_has_many():
    first, second, third = object_colours(objects(3))
    assert first == third != second
    assert len(set(object_colours(objects(3, names=("one",))))) == 3
    many = object_colours(objects(40, names=tuple(map(str, range(40)))))
    assert len(set(many)) == 40


def test_ground_truth_stands_first(picture_of, keep_of, texts):
    # Large enough to cover most of its token, so that the shares on objects are there.
    found = replace(objects(1), boxes=np.array([[1.0, 1.0, 15.0, 15.0]]))
    annotated = objects(2, scores=False)
    picture = picture_of(keep_of(4, [[4, 1]]), patch=16, found=found, annotated=annotated)
    drawn = draw_overview(picture, side=300)
    captions = [text for text in texts if "object" in text or "detection" in text]
    assert captions == [
        "2 annotated objects",
        "1 detection",
        "62 % of all block runs; on objects 100 %, off 25 %",
    ]
    text, size = text_size(2 * 300), (150, 300)
    lowest = drawn[-text - size[0] : -text]
    for place, each in enumerate((annotated, found)):
        left = text + place * (size[1] + text)
        wanted = draw_objects(picture.image, each, size, text=text)
        np.testing.assert_array_equal(lowest[:, left : left + size[1]], wanted)
    assert 3 * 300 < drawn.shape[1] < 3 * 300 + 250


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (720, 1280)])
def test_sizes_are_bounded(picture_of, keep_of, image_of, shape):
    drawn = draw_overview(picture_of(keep_of(4, [[4, 1]]), image=image_of(*shape)))
    assert max(drawn.shape) < 2000


def test_a_row_pairs_pictures_and_captions(image_of):
    with pytest.raises(ValueError, match="pair up"):
        row([image_of(2, 2)], [], text=14)
    with pytest.raises(ValueError, match="pair up"):
        row([], [], text=14)


def test_nothing_given_is_changed(picture_of, keep_of, image_of):
    image, keep = image_of(16, 32), keep_of(4, [[1, 3]])
    before = image.copy(), keep.copy()
    draw_overview(picture_of(keep, patch=16, image=image, found=objects(1)))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(keep, before[1])
