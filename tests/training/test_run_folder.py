"""The folder of a training is its own while it goes on."""

import errno
import fcntl
import os

import pytest

from svit_det.errors import InputError
from svit_det.training.run_folder import LOCK, only_training_in, refuse_going_on

SAID = "another training is going on in this folder; wait until it has ended, end it, or name"


def test_a_second_training_is_refused_until_the_first_one_has_ended(tmp_path, training_in):
    """Also where a process that loads images outlives a training that was killed."""
    with training_in(tmp_path):
        for enter in (only_training_in(tmp_path).__enter__, lambda: refuse_going_on(tmp_path)):
            with pytest.raises(InputError, match=f"^OUTPUT_DIR {tmp_path}: {SAID}"):
                enter()
    refuse_going_on(tmp_path)
    with only_training_in(tmp_path):
        pass
    assert os.listdir(tmp_path) == [LOCK] and (tmp_path / LOCK).stat().st_size == 0


def test_where_no_training_has_been_nothing_is_made(tmp_path):
    for folder in (tmp_path, tmp_path / "none", "n" * 300, "a\0b"):
        refuse_going_on(folder)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_knows_no_locks(tmp_path, monkeypatch):
    def lockf(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with only_training_in(tmp_path):
        refuse_going_on(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), only_training_in(tmp_path / "none"):
        pass
