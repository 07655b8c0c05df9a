"""Do stored weights fit a model, by names and shapes; are they for other classes."""

import pytest

from svit_det.weights.match import OtherClasses, architecture_mismatch, other_classes

BOX = "roi_heads.box_predictor."
MASK = "roi_heads.mask_head.predictor."


def two_stage(classes, *, width=8, agnostic=False, stages=None, mask=True):
    """Shapes of detectron2's heads for so many classes; with `stages` as Cascade R-CNN has them."""
    shapes = {"backbone.weight": (width, 3)}
    for stage in [""] if stages is None else [f"{i}." for i in range(stages)]:
        shapes[f"{BOX}{stage}cls_score.weight"] = (classes + 1, width)
        shapes[f"{BOX}{stage}cls_score.bias"] = (classes + 1,)
        shapes[f"{BOX}{stage}bbox_pred.weight"] = (4 if agnostic else 4 * classes, width)
        shapes[f"{BOX}{stage}bbox_pred.bias"] = (4 if agnostic else 4 * classes,)
    if mask:
        shapes[f"{MASK}weight"] = (classes, width, 1, 1)
        shapes[f"{MASK}bias"] = (classes,)
    return shapes


def retina(classes, *, anchors=9):
    """Shapes of RetinaNet's last layers."""
    return {
        "head.cls_subnet.0.weight": (8, 8, 3, 3),
        "head.cls_score.weight": (anchors * classes, 8, 3, 3),
        "head.cls_score.bias": (anchors * classes,),
        "head.bbox_pred.weight": (4 * anchors, 8, 3, 3),
        "head.bbox_pred.bias": (4 * anchors,),
    }


def test_long_lists_are_cut_short():
    model = {f"a.head.{i}": (1,) for i in range(9)}
    (problem,) = architecture_mismatch(model, {"a.head.0": (1,)})
    assert problem == "a.head.1, a.head.2, a.head.3 and 5 more are not in the file"
    assert architecture_mismatch(model, model) == []


@pytest.mark.parametrize(("stored", "wanted"), [(80, 3), (1, 80), (2, 1)])
def test_two_stage_heads(stored, wanted):
    model = two_stage(wanted)
    names = [name for name in model if name.startswith("roi_heads.")]
    assert other_classes(model, two_stage(stored)) == OtherClasses(names, stored, wanted)


def test_boxes_and_masks_that_are_the_same_for_all_classes_are_kept():
    model = two_stage(3, agnostic=True, mask=False)
    other = other_classes(model, two_stage(80, agnostic=True, mask=False))
    assert other.names == [f"{BOX}cls_score.weight", f"{BOX}cls_score.bias"]


def test_every_stage_of_a_cascade():
    other = other_classes(two_stage(3, stages=3), two_stage(80, stages=3))
    assert (other.given, other.wanted, len(other.names)) == (80, 3, 14)
    assert f"{BOX}2.cls_score.bias" in other.names


def test_a_one_stage_head():
    other = other_classes(retina(3), retina(80))
    assert other == OtherClasses(["head.cls_score.weight", "head.cls_score.bias"], 80, 3)


def test_the_same_number_of_classes():
    assert other_classes(two_stage(3), two_stage(3)) is None
    assert other_classes({}, two_stage(3)) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{BOX}cls_score.weight", (81, 9)),  # the layer before is wider, too
        (f"{BOX}bbox_pred.bias", (5,)),  # not a number for each class
        (f"{MASK}weight", (80, 8, 3, 3)),
        ("backbone.weight", (9, 3)),
    ],
)
def test_what_differs_otherwise_is_no_matter_of_classes(name, shape):
    given = {**two_stage(80), name: shape}
    assert name not in other_classes(two_stage(3), given).names


def test_other_anchors_are_no_other_classes():
    assert other_classes(retina(2), retina(3, anchors=6)) is None
    # As many scores as for other classes, but the boxes tell.
    given = retina(2, anchors=18)
    fresh = set(other_classes(retina(2), given).names)
    model = {name: shape for name, shape in retina(2).items() if name not in fresh}
    given = {name: shape for name, shape in given.items() if name not in fresh}
    assert "head.bbox_pred" in architecture_mismatch(model, given)[0]


def test_boxes_for_each_class_or_for_all_are_no_other_classes():
    assert other_classes(two_stage(3), two_stage(3, agnostic=True)) is None


def test_stages_that_disagree_are_no_other_classes():
    name = f"{BOX}1.cls_score.bias"
    given = two_stage(80, stages=3) | {name: (21,)}
    assert name not in other_classes(two_stage(3, stages=3), given).names
