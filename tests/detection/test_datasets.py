"""What is wrong with a data set is said before anything runs, with its file or key."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from svit_det.detection.datasets import prepare_datasets
from svit_det.errors import InputError


@pytest.fixture
def content(discs):
    """The drawn training set as it is read from its json."""
    return json.loads((discs / "train.json").read_text())


@pytest.fixture
def prepare(tiny_config, discs, tmp_path):
    """Factory: prepare a run whose one set, in training and evaluation, is `content`."""

    def run(content, *options, images=None, training=True, evaluated=True):
        path = tmp_path / "own.json"
        if isinstance(content, (dict, list)):
            path.write_text(json.dumps(content))
        elif content is not None:
            path.write_bytes(content)
        entry = ["own", str(path), str(images or discs / "images")]
        sets = {"DATASETS.COCO_FORMAT": [entry], "DATASETS.TRAIN": ("own",)}
        sets["DATASETS.TEST"] = ("own",) if evaluated else ()
        pairs = [part for pair in sets.items() for part in pair]
        prepare_datasets(tiny_config(*pairs, *options), training=training)

    return run


@pytest.fixture
def says(prepare):
    """Factory: the sentence with which a set is refused."""

    def run(*arguments, **keywords):
        with pytest.raises(InputError) as refusal:
            prepare(*arguments, **keywords)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    return run


def test_a_good_set_is_registered_and_read(tiny_config, discs):
    for _ in range(2):  # preparing twice is no error
        prepare_datasets(tiny_config(), training=True)
    assert MetadataCatalog.get("discs_val").json_file == str(discs / "val.json")
    records = DatasetCatalog.get("discs_train")
    assert len(records) == 8
    assert MetadataCatalog.get("discs_train").thing_classes == ["red", "blue"]


def test_only_the_sets_of_this_run_are_checked(tiny_config, tmp_path):
    cfg = tiny_config()
    cfg.DATASETS.COCO_FORMAT.append(["gone", str(tmp_path / "gone.json"), str(tmp_path)])
    cfg.DATASETS.TRAIN = ("gone",)
    prepare_datasets(cfg, training=False)
    with pytest.raises(InputError, match=r"gone\.json: cannot be read"):
        prepare_datasets(cfg, training=True)


# ------------------------------------------------------------------ the json


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "not a json"),
        (b"{'images': []}", "not a json"),
        (b"\xff\xfe\x00", "encoded as UTF-16"),
        (b"[]", "no list 'images'"),
        (b"3", "no list 'images'"),
        (b'{"images": [], "annotations": {}}', "no list 'annotations'"),
        (b'{"images": [], "annotations": []}', "no list 'categories'"),
    ],
)
def test_not_a_coco_file(says, content, said):
    sentence = says(content)
    assert "own.json" in sentence and said in sentence


@pytest.mark.parametrize(
    ("where", "field"),
    [
        *[("images", field) for field in ("id", "file_name", "height", "width")],
        *[("annotations", f) for f in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")],
        *[("categories", field) for field in ("id", "name")],
    ],
)
def test_missing_field(says, content, where, field):
    del content[where][1][field]
    sentence = says(content)
    missing = "has no 'FIELD'" if where == "categories" else "without 'FIELD'"
    assert missing.replace("FIELD", field) in sentence and "own.json" in sentence


def test_training_needs_less_than_evaluation(prepare, content):
    for annotation in content["annotations"]:
        del annotation["area"]
        annotation.pop("iscrowd")
    prepare(content, evaluated=False)
    assert DatasetCatalog.get("own")


def test_no_segmentation(says, prepare, content):
    content["annotations"][3]["segmentation"] = []
    assert "1 annotation without segmentation (id 4)" in says(content)
    prepare(content, "MODEL.MASK_ON", False)


def test_other_classes_than_the_model(says, content):
    content["categories"].append({"id": 3, "name": "green"})
    assert "3 categories for MODEL.ROI_HEADS.NUM_CLASSES 2" in says(content)


def test_unknown_category(says, content):
    content["annotations"][2]["category_id"] = 9
    assert "1 annotation of a category that is not listed (id 3)" in says(content)


def test_repeated_number(says, content):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]
    assert "1 annotation with an 'id' that an annotation before has (id 1)" in says(content)


def test_nothing_to_train_on(says, prepare, content):
    for annotation in content["annotations"][1:]:
        if not annotation["iscrowd"]:
            annotation["bbox"][2] = 0  # COCO has such objects; training leaves them out
    prepare(content)
    content["annotations"][0]["bbox"][2] = 0
    assert "no object in it to train on" in says(content, evaluated=False)
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    assert "no object in it to train on" in says(content, evaluated=False)
    prepare(content, training=False)


# ------------------------------------------------------------------ folders and names


def test_missing_image_folder(says, content, tmp_path):
    sentence = says(content, images=tmp_path / "nowhere")
    assert "nowhere: no such folder" in sentence and "own.json" in sentence


def test_another_image_folder(says, content, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty: none of the images of" in says(content, images=tmp_path / "empty")


def test_not_registered(tiny_config):
    cfg = tiny_config("DATASETS.TEST", "('discs_test',)")
    with pytest.raises(InputError, match=r"'discs_test' is registered.*DATASETS\.COCO_FORMAT"):
        prepare_datasets(cfg, training=False)


@pytest.mark.parametrize(("training", "key"), [(True, "TRAIN"), (False, "TEST")])
def test_no_set_at_all(tiny_config, training, key):
    cfg = tiny_config(f"DATASETS.{key}", "()")
    with pytest.raises(InputError, match=rf"DATASETS\.{key} is empty"):
        prepare_datasets(cfg, training=training)
    prepare_datasets(cfg, training=not training)


@pytest.mark.parametrize(
    "entry", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", 3], "abc", 3, {"a": 1}, []]
)
def test_wrong_entry(tiny_config, entry):
    cfg = tiny_config()
    cfg.DATASETS.COCO_FORMAT = [entry]
    with pytest.raises(InputError, match=r"DATASETS\.COCO_FORMAT: .*\[name, json file, image fol"):
        prepare_datasets(cfg, training=True)


def test_a_name_that_stands_for_other_files(tiny_config, discs):
    """Otherwise detectron2's coco_2017_val would be evaluated under the name of one's own."""
    entry = ["coco_2017_val", str(discs / "val.json"), str(discs / "images")]
    cfg = tiny_config()
    cfg.DATASETS.COCO_FORMAT = [entry]
    with pytest.raises(InputError, match="'coco_2017_val' is registered already"):
        prepare_datasets(cfg, training=False)


def test_a_missing_json_hints_at_the_folder_of_data_sets(says, monkeypatch, tmp_path):
    """Only where it is not said already where they are."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert "own.json: cannot be read (No such file or directory); $DETECTRON2_DATASETS" in says(
        None
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert "$DETECTRON2_DATASETS" not in says(None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("voc_2007_val", "No such file or directory"),
        ("cityscapes_fine_panoptic_val", "createPanopticImgs.py"),
    ],
)
def test_a_set_of_detectron2s_whose_files_are_not_there(tiny_config, name, said):
    """These sets have no json, and readers of their own."""
    with pytest.raises(InputError, match=f"^DATASETS: the set '{name}' cannot be read .*{said}"):
        prepare_datasets(tiny_config("DATASETS.TEST", (name,)), training=False)
