"""The one writer of files: whole or not at all, and a sentence where it cannot be."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from svit_det.errors import InputError
from svit_det.files import (
    make_folder,
    open_log,
    remove,
    scratch_folder,
    write_all_whole,
    write_whole,
)

PROJECT = Path(__file__).resolve().parents[1]


def write(path, text):
    with write_whole(path) as partial:
        partial.write_text(text)


def names(folder):
    return sorted(os.listdir(folder))


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write(path, "old")
    with write_whole(path) as partial:
        assert partial.parent == path.parent  # one file system, or the rename were a copy
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, TypeError, SystemExit])
def test_whatever_interrupts_leaves_the_old_file_alone(tmp_path, problem):
    write(tmp_path / "a.txt", "old")
    with pytest.raises(problem), write_whole(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise problem
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_process_leaves_the_old_file_alone(tmp_path):
    write(tmp_path / "a.txt", "old")
    code = """
import os, signal, sys
from svit_det.files import write_whole
with write_whole(sys.argv[1]) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk(tmp_path, small_files):
    write(tmp_path / "a.txt", "old")
    with pytest.raises(InputError) as refusal:
        write(tmp_path / "a.txt", "long" * 5000)
    assert str(refusal.value) == f"{tmp_path / 'a.txt'}: cannot be written (File too large)."
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch):
    """Some file systems say so only when they are asked to put the file on the disk."""

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left"):
        write(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_file_and_folder_are_flushed_around_the_rename(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(old, new):
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write(tmp_path / "a.txt", "new")
    assert steps == ["file", "rename", "folder"]


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.txt").mkdir()
    refusal = pytest.raises(InputError, match=r"a\.txt: cannot be written \(a folder stands")
    with refusal, write_whole(tmp_path / "a.txt"):
        raise AssertionError("before anything is written")
    assert names(tmp_path) == ["a.txt"]


def test_a_file_in_the_way_of_the_folder(tmp_path):
    write(tmp_path / "a.txt", "old")
    with pytest.raises(InputError, match=r"b\.txt: cannot be written \([\w ]+\)\.$"):
        write(tmp_path / "a.txt" / "b.txt", "new")
    assert names(tmp_path) == ["a.txt"]


def test_a_device_is_not_replaced():
    with pytest.raises(InputError, match="/dev/null: cannot be written"):
        write("/dev/null", "gone")
    assert not Path("/dev/null").is_file()


def test_read_only_places(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "a.txt", "old")
    (tmp_path / "folder").chmod(0o500)
    (tmp_path / "a.txt").chmod(0o400)
    if os.access(tmp_path / "folder", os.W_OK):
        pytest.skip("this user may write everywhere")
    for place in ("folder/b.txt", "a.txt"):
        with pytest.raises(InputError, match=rf"{place}: cannot be written"):
            write(tmp_path / place, "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt", "folder"]


@pytest.mark.parametrize("call", ["mkdir", "touch"])
def test_a_read_only_disk(tmp_path, monkeypatch, call):
    """For users who may write everywhere too."""

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(Read-only file system\)"):
        write(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


def test_rights_are_those_of_any_new_file_or_of_the_old_one(tmp_path):
    def write_for_the_owner():
        with write_whole(tmp_path / "a.txt") as partial:
            partial.chmod(0o600)  # as safetensors does
        return (tmp_path / "a.txt").stat().st_mode

    (tmp_path / "any").touch()
    assert write_for_the_owner() == (tmp_path / "any").stat().st_mode
    (tmp_path / "a.txt").chmod(0o664)
    assert write_for_the_owner() & 0o777 == 0o664


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "a.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    write(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "new"


def test_names_of_any_length(tmp_path):
    longest = "ü" * 127  # 254 bytes, of the 255 that a name may have
    write(tmp_path / longest, "x")
    assert names(tmp_path) == [longest]


# ------------------------------------------------------------------ files that belong together


def write_pair(folder, text):
    with write_all_whole([folder / "a.txt", folder / "b.txt"]) as partials:
        for partial in partials:
            partial.write_text(text)


def texts(folder):
    return [(folder / name).read_text() for name in names(folder)]


def test_files_that_belong_together_are_replaced_together(tmp_path):
    write_pair(tmp_path, "old")
    write_pair(tmp_path, "new")
    assert names(tmp_path) == ["a.txt", "b.txt"] and texts(tmp_path) == ["new", "new"]


def test_a_disk_that_is_full_at_the_second_file(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    write_pair(tmp_path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"b\.txt: cannot be written \(No space left"):
        write_pair(tmp_path, "new")
    assert names(tmp_path) == ["a.txt", "b.txt"] and texts(tmp_path) == ["old", "old"]


def test_a_rename_that_fails_leaves_no_file_that_was_not_there(tmp_path, monkeypatch):
    replace = os.replace

    def renamed(old, new):
        if Path(new).name == "b.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(old, new)

    write(tmp_path / "b.txt", "old")
    monkeypatch.setattr(os, "replace", renamed)
    with pytest.raises(InputError, match=r"b\.txt: cannot be written"):
        write_pair(tmp_path, "new")
    assert names(tmp_path) == ["b.txt"] and texts(tmp_path) == ["old"]


# ------------------------------------------------------------------ folders and logs


def test_a_folder_is_made_where_a_link_points(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new" / "folder")
    assert make_folder(tmp_path / "link") == tmp_path / "link"
    assert (tmp_path / "new" / "folder").is_dir()
    make_folder(tmp_path / "link")


@pytest.mark.parametrize("make", [make_folder, open_log], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["file/below", "n" * 300])
def test_a_place_that_cannot_be_is_a_sentence(tmp_path, make, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{name}: cannot be written"):
        make(tmp_path / name)


def test_what_cannot_be_removed_is_a_sentence(tmp_path):
    remove(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot be removed"):
        remove(tmp_path)


def test_temporary_files_are_gone_in_the_end():
    with scratch_folder() as folder:
        (folder / "a").write_text("x")
    assert not folder.exists()


def test_no_room_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"No space left.*TMPDIR"), scratch_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), scratch_folder() as folder:
        (folder / "gone").read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"no folder for .*TMPDIR"), scratch_folder():
        raise AssertionError("there is none")
    assert names(tmp_path) == []
