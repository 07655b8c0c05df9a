"""Predictor: what it takes, what it gives, and how it says no."""

import json
import sys
import types
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file
from torch.testing import assert_close

from svit_det.detection import Predictor, coco_json
from svit_det.detection.predictor import TokenPredictor
from svit_det.errors import InputError
from svit_det.images import read_image
from svit_det.weights.files import write_weights


@pytest.fixture
def weights(tiny_model, tmp_path):
    path = tmp_path / "svit.safetensors"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, path)
    return path


@pytest.fixture
def predictor(tiny_config, weights):
    return Predictor(weights, cfg=tiny_config())


def same(one, two):
    assert_close(one.instances.scores, two.instances.scores)
    assert_close(one.instances.pred_boxes.tensor, two.instances.pred_boxes.tensor)
    assert (one.usage == two.usage).all()


def test_all_forms_of_a_picture_are_the_same_picture(predictor, discs):
    path = discs / "images/val_1.png"
    image = read_image(path, "RGB")
    (wanted,) = predictor(path)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    others = [
        predictor(image, order="RGB"),
        predictor(image[:, :, ::-1], order="BGR"),
        predictor(tensor, order="RGB"),
        predictor(Image.open(path)),
        predictor(str(path)),
        predictor([path]),
    ]
    for (other,) in others:
        same(other, wanted)
    assert wanted.name == str(path)
    assert wanted.seconds > 0
    assert 0 < wanted.trunk_macs[0] < wanted.trunk_macs[1]
    assert wanted.kept_shares.shape == (3,)


def test_batches_of_mixed_sizes_are_the_pictures_alone(tiny_config, weights, predictor):
    generator = np.random.default_rng(0)
    pictures = [
        generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((48, 72), (72, 48), (48, 72), (30, 200), (64, 64))
    ]
    alone = predictor(pictures, order="RGB")
    together = Predictor(weights, cfg=tiny_config(), batch_size=3)(pictures, order="RGB")
    assert [each.name for each in together] == [f"array[{number}]" for number in range(5)]
    for one, two in zip(together, alone, strict=True):
        same(one, two)


def test_a_corrupt_picture_is_noted_and_the_others_are_done(predictor, discs, tmp_path):
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes((discs / "images/val_1.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no picture")
    unread = []
    found = predictor(tmp_path, unread=unread)
    assert [each.name[-5:] for each in found] == ["a.png", "c.png"]
    assert [each.name for each in unread] == [str(tmp_path / "b.png")]
    assert "not an image file" in unread[0].reason
    with pytest.raises(InputError, match=r"b\.png: not an image file"):
        predictor(tmp_path)


def test_a_broken_film_and_a_missing_picture_are_noted_too(predictor, discs, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    picture = discs / "images/val_1.png"
    unread = []
    found = predictor([picture, tmp_path / "broken.mp4", "gone.png", picture], unread=unread)
    assert [each.name for each in found] == [str(picture)] * 2
    assert [each.name for each in unread] == [str(tmp_path / "broken.mp4"), "gone.png"]
    assert "not a film that can be read" in unread[0].reason
    with pytest.raises(InputError, match="not a film that can be read"):
        predictor([picture, tmp_path / "broken.mp4"])


def test_a_picture_too_large_for_the_model_is_named(predictor, monkeypatch, discs):
    def fail(given):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(predictor.model, "inference", fail)
    with pytest.raises(InputError, match=r"val_1\.png: 72 x 48 pixels are too many"):
        predictor(discs / "images/val_1.png")


def test_any_other_failure_is_not_hidden(predictor, monkeypatch, discs):
    def fail(given):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(predictor.model, "inference", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        predictor(discs / "images/val_1.png", unread=[])


def test_a_budget(tiny_config, weights, discs):
    few, many = (
        Predictor(weights, cfg=tiny_config(), budget=budget)(discs / "images")
        for budget in (0.2, 0.8)
    )
    assert all(a.usage.sum() < b.usage.sum() for a, b in zip(few, many, strict=True))
    with pytest.raises(InputError, match="budget: 2 must lie in"):
        Predictor(weights, cfg=tiny_config(), budget=2)


def test_following_moves_the_thresholds_and_nothing_else_does(tiny_config, weights, discs):
    def thresholds(predictor):
        (found,) = [
            each for name, each in predictor.model.named_buffers() if name.endswith("thresholds")
        ]
        return found.clone()

    for follow in (False, True):
        predictor = Predictor(weights, cfg=tiny_config(), budget=0.5, follow=follow)
        before = thresholds(predictor)
        predictor(discs / "images")
        assert torch.equal(thresholds(predictor), before) != follow


def test_weights_that_carry_their_config_need_nothing_else(
    tiny_config, tiny_model, tmp_path, discs
):
    cfg, path = tiny_config(), tmp_path / "whole.pth"
    said = {"config": cfg.dump(), "classes": ["red", "green"]}
    write_weights(tiny_model().state_dict(), path, description=said)
    predictor = Predictor(path, options=["MODEL.DEVICE", "cpu"])
    assert predictor.class_names == ["red", "green"]
    assert len(predictor(discs / "images/val_1.png")) == 1


@pytest.mark.parametrize("what", ["carries no config", "no such file", "not a URL"])
def test_weights_that_cannot_be_used(weights, what):
    path = {"no such file": "nowhere.pth", "not a URL": "https://example.org/w.pth"}
    with pytest.raises(InputError, match=what):
        Predictor(path.get(what, weights))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"batch_size": 1.5}, "batch_size: 1.5 is no number of pictures"),
        ({"batch_size": "2"}, "batch_size: '2' is no number"),
        ({"batch_size": 0}, "batch_size: 0 is no number"),
        ({"options": "MODEL.DEVICE cpu"}, "options: not a list of KEY, VALUE"),
        ({"options": None}, "options: not a list of KEY, VALUE"),
        ({"options": ["NO.SUCH", "1"]}, "no config key 'NO.SUCH'"),
        ({"options": ["MODEL.DEVICE"]}, "stands alone"),
        ({"options": ["INPUT.MIN_SIZE_TEST", "-3"]}, "INPUT.MIN_SIZE_TEST"),
        ({"weights": 3}, "weights: a int is not a file of weights"),
        ({"weights": b"a.pth"}, "weights: a bytes is not a file of weights"),
        ({"weights": "x" * 300}, "x"),
        ({"weights": "x" * 300 + ".pth"}, "File name too long"),
        ({"cfg": 3}, "cfg: a int is not a config"),
        ({"cfg": "x" * 300 + ".yaml"}, "no such file"),
        (
            {"options": ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]},
            "MODEL.META_ARCHITECTURE: GeneralizedRCNN leaves no token usage",
        ),
    ],
    ids=lambda each: str(each)[:30],
)
def test_arguments_of_another_kind(tiny_config, weights, words, said):
    given = {"weights": weights, "cfg": tiny_config()} | words
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        Predictor(given.pop("weights"), **given)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5)),
        np.zeros((4, 5, 3)),
        np.zeros((4, 5), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        torch.zeros(3, 4, 5),
        "a.png",
        None,
    ],
    ids=lambda each: type(each).__name__,
)
def test_run_takes_one_array(predictor, image):
    with pytest.raises(InputError, match="run takes one array"):
        predictor.run(image)


# ------------------------------------------------------------------ untrained parts


def test_untrained_gates_are_refused_unless_asked_for(tiny_config, tiny_model, tmp_path, discs):
    dense = tmp_path / "dense.pth"
    write_weights(tiny_model("MODEL.TOKEN_POLICY.NAME", "Dense").state_dict(), dense)
    with pytest.raises(InputError, match=r"no trained weights for .*gates.*fine-tune"):
        Predictor(dense, cfg=tiny_config())
    predictor = Predictor(dense, cfg=tiny_config(), allow_untrained=True)
    assert len(predictor(discs / "images/val_1.png")) == 1


def test_a_random_class_token_is_allowed_and_said(tiny_config, tiny_model, tmp_path, caplog, discs):
    dense = tmp_path / "dense.pth"
    write_weights(tiny_model("MODEL.TOKEN_POLICY.NAME", "Dense").state_dict(), dense)
    cfg = tiny_config("MODEL.TOKEN_POLICY.NAME", "EViT")
    assert len(Predictor(dense, cfg=cfg)(discs / "images/val_1.png")) == 1
    said = [each.getMessage() for each in caplog.records if "class token" in each.getMessage()]
    assert len(said) == 1 and "starts at random" in said[0]


# ------------------------------------------------------------------ other people's forms


@pytest.fixture
def with_ids(tiny_config, tiny_model, tmp_path):
    """Factory: a predictor of a file with this description beside its config."""

    def make(*options, **said):
        cfg = tiny_config("DATASETS.COCO_FORMAT", "[]", *options)
        path = tmp_path / "ids.pth"
        write_weights(tiny_model().state_dict(), path, description={"config": cfg.dump(), **said})
        return Predictor(path)

    return make


def test_the_ids_of_classes_are_those_of_the_json(with_ids, discs):
    predictor = with_ids(classes=["red", "blue"], category_ids=[7, 90])
    assert predictor.category_ids == [7, 90]
    found = predictor(discs / "images/val_1.png")
    labels = found[0].instances.pred_classes.tolist()
    entries = found[0].to_coco(5)
    assert [each["category_id"] for each in entries] == [(7, 90)[label] for label in labels]
    content = coco_json(found, class_names=predictor.class_names, num_classes=2)
    assert content["categories"] == [{"id": 7, "name": "red"}, {"id": 90, "name": "blue"}]
    assert {each["category_id"] for each in content["annotations"]} <= {7, 90}
    with pytest.raises(InputError, match="3 names for a model of 2 classes"):
        coco_json(found, class_names=["a", "b", "c"], num_classes=3)


@pytest.mark.parametrize("ids", [None, [7], [7, 7], ["7", "90"], [7.0, 90.0], [True, 2], "79", 7])
def test_ids_that_nobody_knows_are_the_classes_plus_one(with_ids, discs, ids):
    predictor = with_ids(classes=["red", "blue"], **({} if ids is None else {"category_ids": ids}))
    assert predictor.category_ids is None
    (found,) = predictor(discs / "images/val_1.png")
    wanted = [label + 1 for label in found.instances.pred_classes.tolist()]
    assert [each["category_id"] for each in found.to_coco(1)] == wanted


def test_older_weights_have_the_ids_of_a_set_with_the_same_classes(with_ids, discs, tmp_path):
    content = json.loads((discs / "val.json").read_text())
    content["categories"] = [{"id": 40, "name": "blue"}, {"id": 3, "name": "red"}]
    (tmp_path / "val.json").write_text(json.dumps(content))
    own = f"[['own', '{tmp_path.as_posix()}/val.json', '{discs.as_posix()}/images']]"
    options = ("DATASETS.TEST", "('own',)", "DATASETS.COCO_FORMAT", own)
    assert with_ids(*options, classes=["red", "blue"]).category_ids == [3, 40]
    assert with_ids(*options, classes=["blue", "red"]).category_ids is None
    assert with_ids(*options).category_ids == [3, 40]


def test_coco_json_can_be_read_as_annotations_and_as_results(predictor, discs, tmp_path):
    found = predictor(discs / "images")
    content = coco_json(found, class_names=["red", "green"], num_classes=2)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    coco = COCO(str(path))
    assert len(coco.imgs) == len(found)
    results = coco.loadRes(content["annotations"])
    assert len(results.anns) == sum(len(each.instances) for each in found) > 0
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        assert annotation["category_id"] in (1, 2)


@dataclass(kw_only=True)
class Detections:
    """Takes what supervision's class of this name takes, and refuses what that one would misread.

    As its page says: xyxy (n, 4), mask (n, H, W), confidence (n,), class_id (n,), tracker_id (n,)
    and data, all arrays of NumPy.
    """

    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict = field(default_factory=dict)

    def __post_init__(self):
        assert type(self.xyxy) is np.ndarray and self.xyxy.dtype.kind == "f"
        count = len(self.xyxy)
        assert self.xyxy.shape == (count, 4)
        for name, kind in (("confidence", "f"), ("class_id", "i")):
            value = getattr(self, name)
            assert type(value) is np.ndarray and value.dtype.kind == kind, name
            assert value.shape == (count,), name
        if self.mask is not None:
            assert type(self.mask) is np.ndarray and self.mask.dtype == bool
            assert self.mask.ndim == 3 and len(self.mask) == count
        assert self.tracker_id is None and self.data == {}


@pytest.fixture
def supervision(monkeypatch):
    """A stand-in for the package, which the tests do not ask for."""
    stand_in = types.ModuleType("supervision")
    stand_in.Detections = Detections
    monkeypatch.setitem(sys.modules, "supervision", stand_in)


def test_supervision(predictor, discs, supervision):
    (found,) = predictor(discs / "images/val_1.png")
    theirs, ours = found.to_supervision(min_score=0.0), found.instances
    assert len(ours) == 5 and theirs.mask.shape == (5, 48, 72)
    assert theirs.xyxy.tolist() == ours.pred_boxes.tensor.tolist()
    assert theirs.confidence.tolist() == ours.scores.tolist()
    assert theirs.class_id.tolist() == ours.pred_classes.tolist()
    assert np.array_equal(theirs.mask, ours.pred_masks.numpy())
    least = float(ours.scores.sort(descending=True).values[1])
    some = found.to_supervision(min_score=least)
    assert some.confidence.tolist() == [s for s in ours.scores.tolist() if s >= least]
    assert len(some.xyxy) == len(some.mask) < 5
    nothing = found.to_supervision(min_score=1.1)
    assert nothing.xyxy.shape == (0, 4) and nothing.mask.shape == (0, 48, 72)


def test_boxes_alone_for_supervision(predictor, discs, supervision):
    (found,) = predictor(discs / "images/val_1.png")
    found.instances.remove("pred_masks")
    theirs = found.to_supervision(min_score=0.0)
    assert theirs.mask is None and len(theirs.xyxy) == len(found.instances)


def test_supervision_that_is_missing(predictor, discs, monkeypatch):
    (found,) = predictor(discs / "images/val_1.png")
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        found.to_supervision()


def test_detectron2s_own_predictor_finds_the_same(tiny_config, weights, predictor, discs):
    path = discs / "images/val_1.png"
    own = DefaultPredictor(tiny_config("MODEL.WEIGHTS", weights))(read_image(path, "BGR"))
    (ours,) = predictor(path)
    assert_close(own["instances"].scores, ours.instances.scores, atol=1e-4, rtol=1e-4)


def test_detectron2s_predictor_refuses_untrained_gates(tiny_config, tiny_model, discs, tmp_path):
    """And a model that was trained since it loaded them is one that has them."""
    state = {n: v for n, v in tiny_model().state_dict().items() if ".policy." not in n}
    torch.save({"model": state}, tmp_path / "dense.pth")
    image = read_image(discs / "images/val_1.png", "BGR")
    predictor = DefaultPredictor(tiny_config("MODEL.WEIGHTS", tmp_path / "dense.pth"))
    with pytest.raises(InputError, match=r"no trained weights for net\.trunk\.policy\..* which"):
        predictor(image)
    predictor.model.train().eval()
    predictor(image)
    allowed = Predictor(tmp_path / "dense.pth", cfg=tiny_config(), allow_untrained=True)
    assert len(allowed(image, order="BGR")) == 1


def test_the_older_name_takes_a_path_and_gives_one_prediction(tiny_config, weights, discs):
    one = TokenPredictor(tiny_config("MODEL.WEIGHTS", weights))(discs / "images/val_1.png")
    assert one.image.shape == (48, 72, 3)
