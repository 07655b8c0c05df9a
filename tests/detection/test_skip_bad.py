"""A run that goes on without what cannot be used: what it reads, and what it writes of that."""

import hashlib
import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from svit_det.annotations import cleaned_file, list_file
from svit_det.detection.datasets import prepare_datasets, register_datasets
from svit_det.errors import InputError

SKIP = ("DATASETS.SKIP_BAD", True)
FILE = "a_b_c-" + hashlib.sha256(b"a/b:c").hexdigest()[:8]
"""The name of the files of the set "a/b:c"."""


@pytest.fixture
def own(tiny_config, discs, tmp_path):
    """Factory: the config of a run on the drawn training set after a change of its json."""

    def make(change, *options):
        content = json.loads((discs / "train.json").read_text())
        change(content)
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content))
        entry = ["a/b:c", str(path), str(discs / "images")]
        sets = ["DATASETS.COCO_FORMAT", [entry], "DATASETS.TRAIN", ("a/b:c",)]
        sets += ["DATASETS.TEST", ("a/b:c",), "OUTPUT_DIR", tmp_path / "out"]
        return tiny_config(*sets, *options)

    return make


def spoil(content):
    content["info"] = {"note": "kept"}
    content["annotations"][1]["bbox"][2] = float("nan")
    content["images"][0]["height"] += 1


def as_it_is(content):
    pass


def test_it_is_refused_without_the_key(own, tmp_path):
    with pytest.raises(InputError, match="go on without them with --skip-bad"):
        prepare_datasets(own(spoil), training=True)
    assert not (tmp_path / "out").exists()


def test_the_run_reads_the_rest(own, tmp_path, caplog):
    cfg = own(spoil, *SKIP)
    with caplog.at_level(logging.WARNING):
        prepare_datasets(cfg, training=True)
    assert len(DatasetCatalog.get("a/b:c")) == 7
    folder = tmp_path / "out" / "annotations"
    assert {path.name for path in folder.iterdir()} == {f"{FILE}.json", f"{FILE}_left_out.json"}
    left_out = json.loads((folder / f"{FILE}_left_out.json").read_text())
    assert left_out["source"] == str(tmp_path / "own.json")
    assert left_out["images"] == [
        {"id": 100, "place": 0, "reason": "of another size than their file"}
    ]
    assert [(each["id"], each["place"]) for each in left_out["annotations"]] == [
        (1, 0),
        (2, 1),
        (3, 2),
    ]
    original = json.loads((tmp_path / "own.json").read_text())
    kept = json.loads((folder / f"{FILE}.json").read_text())
    assert kept["annotations"] == original["annotations"][3:]
    assert kept["images"] == original["images"][1:]
    assert kept["info"] == original["info"] and kept["categories"] == original["categories"]
    assert (
        "left out, as" in caplog.text and "of another size than their file (id 100)" in caplog.text
    )


def test_other_processes_of_the_run_read_the_same(own, tmp_path):
    cfg = own(spoil, *SKIP)
    prepare_datasets(cfg, training=True)
    DatasetCatalog.remove("a/b:c")
    MetadataCatalog.remove("a/b:c")
    for _ in range(2):
        register_datasets(cfg)
        assert len(DatasetCatalog.get("a/b:c")) == 7
        assert MetadataCatalog.get("a/b:c").image_root == cfg.DATASETS.COCO_FORMAT[0][2]
    cfg.DATASETS.SKIP_BAD = False
    register_datasets(cfg)
    assert len(DatasetCatalog.get("a/b:c")) == 8


def test_a_set_that_was_corrected_is_read_itself(own, tmp_path):
    prepare_datasets(own(spoil, *SKIP), training=True)
    cfg = own(as_it_is, *SKIP)
    for _ in range(2):
        prepare_datasets(cfg, training=True)
        assert MetadataCatalog.get("a/b:c").json_file == str(tmp_path / "own.json")
        assert len(DatasetCatalog.get("a/b:c")) == 8
    assert not (tmp_path / "out" / "annotations" / f"{FILE}.json").exists()


def test_a_json_of_the_users_own_stays(own, tmp_path):
    """OUTPUT_DIR may be the folder of the set, with the set's json in its annotations/."""
    place = tmp_path / "out" / "annotations" / f"{FILE}.json"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    for skip in (True, False):
        prepare_datasets(own(as_it_is, "DATASETS.SKIP_BAD", skip), training=True)
        assert len(DatasetCatalog.get("a/b:c")) == 8
    with pytest.raises(InputError, match=rf"{FILE}\.json would be replaced.*another OUTPUT_DIR"):
        prepare_datasets(own(spoil, *SKIP), training=True)
    assert place.read_text() == "mine" and len(list(place.parent.iterdir())) == 1


def test_every_set_has_files_of_its_own():
    names = [
        "cells/train",
        "cells_train",
        "cells:train",
        "x",
        "x_left_out",
        "x/left_out",
        "é",
        "\ud800",
    ]
    names += ["x_left_out_left_out", "../x", ".._x"]
    files = [file("out", name) for name in names for file in (cleaned_file, list_file)]
    assert len(set(files)) == 2 * len(names)
    assert {path.parent.as_posix() for path in files} == {"out/annotations"}
    assert cleaned_file("out", "cells_train").name == "cells_train.json"


def test_where_nothing_is_left(own):
    def spoil_all(content):
        for each in content["annotations"]:
            each["bbox"] = "no box"

    with pytest.raises(InputError, match="there is no object in it to train on"):
        prepare_datasets(own(spoil_all, *SKIP), training=True)


def test_train_net_knows_the_option(own, tmp_path, tiny_yaml, fork_tool):
    cfg = own(spoil)
    options = ["DATASETS.COCO_FORMAT", list(cfg.DATASETS.COCO_FORMAT)]
    options += ["DATASETS.TRAIN", ("a/b:c",), "DATASETS.TEST", ("a/b:c",)]
    options += ["OUTPUT_DIR", tmp_path / "out", "SOLVER.MAX_ITER", 1]
    arguments = ["--num-gpus", 1, "--config-file", tiny_yaml]
    refused = fork_tool("train_net.py", *arguments, *options)
    assert refused.returncode == 1 and "--skip-bad" in refused.stderr
    done = fork_tool("train_net.py", *arguments, "--skip-bad", *options)
    assert done.returncode == 0, done.stderr
    assert "Loaded 7 images" in done.stdout + done.stderr
