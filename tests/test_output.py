"""Where results cannot go, said before the work."""

import argparse
import errno
import os
import tempfile

import pytest
from PIL import Image

from svit_det.cli.output import (
    OutputFolder,
    check_output,
    check_output_file,
    files_read,
    refuse_input,
)
from svit_det.cli.program import main
from svit_det.cli.stems import Stems
from svit_det.errors import InputError

SUFFIXES = (".pth", ".safetensors")


@pytest.fixture
def read_only(monkeypatch):
    """No folder may be written to. (Rights mean nothing to root, who may run the tests.)"""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_what_is_not_there_yet_is_not_made(tmp_path):
    check_output(tmp_path / "new" / "folder", ["a.png"], overwrite=False)
    check_output_file(tmp_path / "new" / "a.pth", suffixes=SUFFIXES, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path, read_only):
    said = r"--output .*cannot be written.*\(Permission denied\)"
    with pytest.raises(InputError, match=said):
        check_output(tmp_path / "new", (), overwrite=True)
    with pytest.raises(InputError, match=said):
        check_output_file(tmp_path / "a.pth", suffixes=SUFFIXES, overwrite=True)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(InputError, match=r"file is no folder that may be written to"):
            check_output(folder, (), overwrite=True)


def test_a_full_disk(tmp_path, monkeypatch):
    """It may have room for a name alone."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"--output .*No space left"):
        check_output(tmp_path / "new", (), overwrite=True)


@pytest.mark.parametrize("name", ["n" * 300 + ".pth", "loop.pth"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    with pytest.raises(InputError, match=r"--output .*\.pth: cannot be written"):
        check_output_file(tmp_path / name, suffixes=SUFFIXES, overwrite=True)


def test_results_that_are_there(tmp_path):
    (tmp_path / "b.png").write_text("")
    with pytest.raises(InputError, match=r"b\.png is there already; give --overwrite"):
        check_output(tmp_path, ["a.png", "b.png"], overwrite=False)
    check_output(tmp_path, ["a.png", "b.png"], overwrite=True)
    check_output(tmp_path, ["a.png"], overwrite=False)

    (tmp_path / "a.pth").write_text("")
    with pytest.raises(InputError, match=r"a\.pth: is there already; give --overwrite"):
        check_output_file(tmp_path / "a.pth", suffixes=SUFFIXES, overwrite=False)
    check_output_file(tmp_path / "a.pth", suffixes=SUFFIXES, overwrite=True)


def test_a_file_of_another_kind(tmp_path):
    with pytest.raises(InputError, match=r"a\.zip: name a \.pth or a \.safetensors file"):
        check_output_file(tmp_path / "a.zip", suffixes=SUFFIXES, overwrite=True)
    (tmp_path / "b.pth").mkdir()
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        check_output_file(tmp_path / "b.pth", suffixes=SUFFIXES, overwrite=True)


def test_no_file_stands_where_one_is_wanted(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json is no file, and is not replaced"):
        check_output(tmp_path, ["a.json"], overwrite=True)
    os.mkfifo(tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"b\.pth: is a device or a pipe; name a file"):
        check_output_file(tmp_path / "b.pth", suffixes=SUFFIXES, overwrite=True)


def test_places_where_nothing_can_be_made(tmp_path):
    """A name that is too long, a link to itself, a link that leads nowhere."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone/away")
    for name in ("n" * 300, "loop", "nowhere", "a\0b"):
        with pytest.raises(InputError, match=r"--output .*: cannot be written, "):
            check_output(tmp_path / name, (), overwrite=True)
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    for name in ("n" * 300 + ".pth", "loop.pth", "a\0b.pth"):
        with pytest.raises(InputError, match=r"--output .*: cannot be written "):
            check_output_file(tmp_path / name, suffixes=SUFFIXES, overwrite=True)
    with pytest.raises(InputError, match="--output is empty; name a folder"):
        check_output("", (), overwrite=True)


# ------------------------------------------------------------------ files that are read


def test_a_file_that_is_read_is_no_place_for_a_result(tmp_path):
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(InputError, match=r"results\.json is one of the files that are read"):
        check_output(tmp_path, ["results.json"], overwrite=True, inputs=[tmp_path / "results.json"])


def test_an_input_is_never_replaced(tmp_path):
    """Whatever the way to it, and whatever is asked for; other files are, if asked for."""
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "old.jpg"):
        (tmp_path / "photos" / name).write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "photos")
    for overwrite in (False, True):
        folder = OutputFolder.apart_from(
            [tmp_path / "photos/a.jpg"], tmp_path / "out", overwrite=overwrite
        )
        folder.check(["new.jpg"])
        with pytest.raises(InputError, match=r"a\.jpg is one of the files that are read"):
            folder.check(["new.jpg", "old.jpg", "a.jpg"])
        if overwrite:
            folder.check(["old.jpg"])
        else:
            with pytest.raises(InputError, match=r"old\.jpg is there already; give --overwrite"):
                folder.check(["old.jpg"])


def test_one_file_that_is_an_input(tmp_path):
    (tmp_path / "a.png").write_text("mine")
    refuse_input(tmp_path / "b.png", [tmp_path / "a.png", tmp_path / "gone.png"])
    with pytest.raises(InputError, match=r"a\.png: is one of the files that are read"):
        refuse_input(tmp_path / "a.png", [tmp_path / "a.png"])


def test_what_is_written_beside_it_is_no_input_either(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    read, also = [tmp_path / "a.json"], [tmp_path / "a.json"]
    with pytest.raises(InputError, match=r"a\.html: a\.json, which is written too, is one of the"):
        refuse_input(tmp_path / "a.html", read, also=also)
    refuse_input(tmp_path / "b.html", read, also=[tmp_path / "b.json"])


def test_every_file_that_a_command_line_names_is_read(tmp_path):
    names = ("a.pth", "b.yaml", "c.json", "d.pth", "e.pth", "f.mp4", "out.json")
    paths = {name: tmp_path / name for name in names}
    for path in paths.values():
        path.touch()
    args = argparse.Namespace(
        weights=[str(paths["a.pth"]), str(paths["e.pth"])],
        config_file=str(paths["b.yaml"]),
        annotations=paths["c.json"],
        checkpoints=[f"name={paths['d.pth']}", "gone.pth", "n" * 300, "a\0b", ""],
        film=str(paths["f.mp4"]),
        pruned=None,
        output=paths["out.json"],
        title=str(paths["out.json"]),
        argv=[str(paths["out.json"])],
        limit=5,
    )
    assert set(files_read(args)) == {str(paths[name]) for name in names if name != "out.json"}


# A command and the words with which its output would replace the file {there}, which it reads.
ONTO_ITS_INPUT = [
    ("predict", "results.json", "--weights {there} --output {folder} {picture}"),
    ("predict", "coco.json", "--weights a.pth --config-file {there} --output {folder} {picture}"),
    ("visualize", "token_usage.json", "--weights {there} --output {folder} {picture}"),
    ("figures", "a.png", "--figure 4 --weights {there} --output {there} {picture}"),
    ("export", "detector.onnx", "--weights {there} --formats onnx --output {folder}"),
    ("convert", "a.pth", "--from deit --weights {there} --config-file none --output {there}"),
    ("classification-tables", "a.json", "name={there} --output {there}"),
    ("benchmark", "results.json", "--config-file {there} --output {folder}"),
    ("benchmark-classifier", "results.json", "--weights {there} --output {folder}"),
    (
        *("attention-figure", "attention_figure.json"),
        "--dense {there} --pruned a.pth --output {folder} {picture}",
    ),
]


@pytest.mark.parametrize(("name", "file", "words"), ONTO_ITS_INPUT, ids=lambda each: each[:60])
def test_no_command_replaces_what_it_reads(name, file, words, tmp_path, capsys):
    folder, picture = tmp_path / "results", tmp_path / "p.png"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(picture)
    there = folder / file
    there.write_text("hours")
    given = [word.format(folder=folder, there=there, picture=picture) for word in words.split()]
    assert main([name, "--overwrite", *given]) == 1
    assert "one of the files that are read" in capsys.readouterr().err
    assert there.read_text() == "hours"


def test_names_that_no_file_can_have_are_not_there(tmp_path):
    OutputFolder(tmp_path, overwrite=False).check(["n" * 300, "a\0b"])


# ------------------------------------------------------------------ stems


def test_no_two_pictures_share_a_stem():
    stems = Stems(["x/a.png", "y/a.jpg", "a_2.png"])
    frames = [f"f.mp4#00000{number}" for number in range(2)]
    assert [stems.of(each) for each in ("y/a.jpg", "a_2.png", "x/a.png")] == ["a_2", "a_2_2", "a"]
    assert [stems.of(each) for each in frames] == ["f.mp4_000000", "f.mp4_000001"]
    assert stems.of("z/f.mp4#000000") == "f.mp4_000000_2"
    assert stems.of("camera 0#000007") == "camera 0_000007"
