"""Weights know their config: what is read, what is refused, and the names of the classes."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog

from svit_det.detection import read_trained
from svit_det.detection.description import describe_run
from svit_det.detection.trained import class_names_of
from svit_det.errors import InputError
from svit_det.weights.files import read_description, write_weights


@pytest.fixture
def weights(tiny_config, tiny_model, tmp_path):
    """Factory: a file of the tiny model with this description, or with the one of a run."""

    def make(name="tiny.safetensors", said=...):
        state = {n: v.contiguous() for n, v in tiny_model().state_dict().items()}
        said = describe_run(tiny_config("MODEL.DEVICE", "cpu")) if said is ... else said
        write_weights(state, tmp_path / name, description=said)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.safetensors"])
def test_the_config_comes_out_as_it_went_in(weights, tiny_config, name):
    path = weights(name)
    trained = read_trained(path)
    expected = tiny_config("MODEL.WEIGHTS", path, "MODEL.DEVICE", trained.cfg.MODEL.DEVICE)
    assert yaml.safe_load(trained.cfg.dump()) == yaml.safe_load(expected.dump())
    assert read_trained(str(path), ["SEED", "7"]).cfg.SEED == 7
    assert read_description(str(path))["policy"] == "SViT" == trained.said["policy"]


def test_the_device_is_of_this_machine(weights, tiny_config):
    said = describe_run(tiny_config())
    said["config"] = said["config"].replace("DEVICE: cpu", "DEVICE: cuda:3")
    assert "cuda:3" in said["config"]
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert here == read_trained(weights(said=said)).cfg.MODEL.DEVICE
    chosen = read_trained(weights(said=said), ["MODEL.DEVICE", "cpu"])
    assert chosen.cfg.MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (None, "carries no config; give --config-file"),
        ({"config": 3}, "carries no config; give --config-file"),
        ({"config": "MODEL:\n  VIT:\n    DEPHT: 3"}, "the config in .*'MODEL.VIT.DEPTH'"),
        ({"config": "[1"}, "the config in .*not a readable yaml"),
        ({"config": "OUTPUT_DIR: !!python/object/apply:os.getcwd []"}, "plain values only"),
        ({"config": "_BASE_: /etc/passwd"}, "the config in .*names no _BASE_"),
        ({"config": "SEED: 1\n# \ud800"}, "the config in .*not a readable yaml"),
        ({"config": "A: " + "x" * 300_000}, "the config in .*more than 200,000 bytes"),
    ],
)
def test_no_usable_config(weights, said, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        read_trained(weights(said=said))
    assert "\n" not in str(refusal.value) and "tiny.safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (3, "no list of names under 'classes'"),
        ("red, blue", "no list of names under 'classes'"),
        ([1, 2], "no list of names under 'classes'"),
        ({"red": 1}, "no list of names under 'classes'"),
        (["red"], "names 1 classes in its description, where its config has 2"),
        (["red", "blue", "green"], "names 3 classes"),
    ],
)
def test_no_usable_names_of_classes(weights, tiny_config, classes, sentence):
    said = describe_run(tiny_config()) | {"classes": classes}
    with pytest.raises(InputError, match=sentence) as refusal:
        read_trained(weights(said=said))
    assert "\n" not in str(refusal.value) and "tiny.safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"[" * 200_000),
        lambda path: path.write_text('{"categories": [3]}'),
        lambda path: path.write_text('{"categories": [{"id": 1, "name": "only"}]}'),
    ],
    ids=["pipe", "device", "deep", "no categories", "one of two"],
)
def test_a_json_that_gives_no_names(weights, tiny_config, tmp_path, make):
    """A file of weights chooses its config, and the config the json."""
    path = tmp_path / "set.json"
    make(path)
    sets = f"[['discs_train','{path}','.'],['discs_val','{path}','.']]"
    said = describe_run(tiny_config("DATASETS.COCO_FORMAT", sets))
    said.pop("classes", None)
    assert read_trained(weights(said=said)).class_names is None


def test_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.safetensors: not a file of plain weights"):
        read_trained(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match=r"--weights .*none\.pth: no such file"):
        read_trained(tmp_path / "none.pth")
    with pytest.raises(InputError, match="not a URL; download it first"):
        read_trained("https://example.org/svit.pth")


def test_a_config_without_weights(tiny_yaml):
    with pytest.raises(InputError, match=r"TEST\.WEIGHTS names no trained weights; give --weights"):
        read_trained(config_file=str(tiny_yaml))
    with pytest.raises(InputError, match="give --weights, or --config-file"):
        read_trained()
    with pytest.raises(InputError, match=r"TEST\.WEIGHTS none\.pth: no such file"):
        read_trained(options=["TEST.WEIGHTS", "none.pth"], config_file=str(tiny_yaml))


# ------------------------------------------------------------------ names of classes


def test_names_of_classes(tiny_config, tmp_path):
    """From the file first, then from the sets: their json, or what is registered."""
    cfg = tiny_config()
    assert class_names_of(cfg, {"classes": ["a", "b"]}) == ["a", "b"]
    assert class_names_of(cfg, {"classes": []}) == ["red", "blue"] == class_names_of(cfg)

    categories = [{"id": 9, "name": "second"}, {"id": 2, "name": "first"}]
    (tmp_path / "own.json").write_text(json.dumps({"categories": categories}))
    cfg.DATASETS.COCO_FORMAT = [["own", str(tmp_path / "own.json"), "nowhere"]]
    cfg.DATASETS.TEST = ("own",)
    assert class_names_of(cfg) == ["first", "second"]

    Path(tmp_path / "own.json").unlink()
    cfg.DATASETS.TRAIN = ("registered_elsewhere",)
    assert class_names_of(cfg) is None
    assert "registered_elsewhere" not in MetadataCatalog.list()
    MetadataCatalog.get("registered_elsewhere").thing_classes = ["cat", "dog"]
    assert class_names_of(cfg) == ["cat", "dog"]
