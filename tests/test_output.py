"""Where results cannot go, said before the work."""

import tempfile

import pytest

from svit_det.cli.output import check_output, check_output_file
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
