"""How a command ends: refused by a disk, by Ctrl-C and by SIGTERM, wherever that comes."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svit_det.cli.execution import execute

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = """
import argparse
build_parser = argparse.ArgumentParser
def run(args):
    import errno, os, signal, time, gc
    {}
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Factory: the status of a command whose work is this code."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(code):
        name = f"a_command_{abs(hash(code))}"
        (tmp_path / f"{name}.py").write_text(COMMAND.format(code))
        return execute(name, [], program="svit-det a")

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_refuses_a_file_is_a_sentence(command, number, capsys):
    assert command(f"raise OSError({number}, os.strerror({number}), 'out/log.txt')") == 1
    said = capsys.readouterr().err
    assert said == f"svit-det a: out/log.txt: cannot be written ({os.strerror(number)}).\n"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP])
def test_a_name_that_no_file_can_have_is_a_sentence(command, number, capsys):
    assert command(f"raise OSError({number}, os.strerror({number}), 300 * 'n')") == 1
    said = capsys.readouterr().err
    reason = os.strerror(number)
    assert said == f"svit-det a: {60 * 'n'}: no file can be found under this name ({reason}).\n"


def test_other_errors_are_passed_on(command):
    with pytest.raises(PermissionError):
        command("raise PermissionError(errno.EACCES, 'a mistake of this project')")


@pytest.mark.parametrize(
    ("sent", "status", "name"), [("SIGINT", 130, "Ctrl-C"), ("SIGTERM", 143, "SIGTERM")]
)
@pytest.mark.parametrize(
    "code",
    [
        "signal.raise_signal({0}); time.sleep(60)",
        # Python drops what is raised while an object is removed.
        "C = type('C', (), dict(__del__=lambda s: signal.raise_signal({0}))); C(); time.sleep(60)",
    ],
    ids=["anywhere", "dropped"],
)
def test_a_signal_ends_the_command_with_a_line(command, capfd, sent, status, name, code):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert command(code.format(f"signal.{sent}")) == status
    assert capfd.readouterr() == ("", f"svit-det a: stopped by {name}.\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_where_ctrl_c_is_ignored_sigterm_still_ends_in_order(command, capfd):
    """So it is in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command("signal.raise_signal(signal.SIGTERM); time.sleep(60)") == 143
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert capfd.readouterr() == ("", "svit-det a: stopped by SIGTERM.\n")


TERMINATED = """
import sys, time
from pathlib import Path
from svit_det.files import scratch_folder, write_whole
from svit_det.interrupts import Terminated, remembering_interrupts
try:
    with remembering_interrupts(), write_whole(sys.argv[1]), scratch_folder() as scratch:
        Path(sys.argv[2]).write_text(str(scratch))
        time.sleep(60)
except Terminated:
    sys.exit(143)
"""


def test_nothing_unfinished_is_left_by_sigterm(tmp_path):
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "a" / "file"), str(ready)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    while not ready.exists() or not ready.read_text():
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 143
    assert os.listdir(tmp_path / "a") == []
    assert not Path(ready.read_text()).exists()
