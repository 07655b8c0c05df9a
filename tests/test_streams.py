"""Standard streams that break: the work goes on, and what is lost is said where it matters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PREPARED = "import os, sys\nfrom svit_det.startup import prepare_process\nprepare_process()\n"
TALKATIVE = (
    PREPARED
    + """
for number in range(20_000):
    print("line", number)
open(sys.argv[1], "w").write("done")
"""
)
COMMAND = """
import argparse, pathlib
def build_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    return parser
def run(args):
    print("table")
    pathlib.Path(args.file).write_text("done")
    return {"a": 1}
"""


def call(code, *words, folder=None, **streams):
    """Run Python code in a process with these standard streams."""
    paths = os.pathsep.join(map(str, filter(None, (PROJECT, folder))))
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**buffered, "PYTHONPATH": paths},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@pytest.fixture
def unread():
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full():
    """A file on a full disk."""
    with open("/dev/full", "w") as file:
        yield file


@pytest.fixture
def execute(tmp_path):
    """Factory: a command of one line, run by `execute` with these streams."""
    (tmp_path / "a_command.py").write_text(COMMAND)
    code = PREPARED + (
        "from svit_det.cli.execution import execute\n"
        "sys.exit(execute('a_command', sys.argv[1:], program='svit-det a'))"
    )
    return lambda *words, **streams: call(code, *words, folder=tmp_path, **streams)


def test_a_reader_that_goes_away_stops_no_work(unread, tmp_path):
    done = call(TALKATIVE, tmp_path / "a", stdout=unread)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a").read_text() == "done"


def test_nor_does_one_of_the_error_messages(unread, tmp_path):
    code = TALKATIVE.replace("number)", "number, file=sys.stderr)")
    assert call(code, tmp_path / "a", stderr=unread).returncode == 0
    assert (tmp_path / "a").read_text() == "done"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_file_takes_the_place_of_a_closed_stream(number, tmp_path):
    """Else what a library prints would land in that file."""
    code = PREPARED + "file = open(sys.argv[1], 'w'); print('x'); sys.exit(10 + file.fileno())"
    done = call(code, tmp_path / "a", preexec_fn=lambda: os.close(number))
    assert done.returncode > 12, done.stderr
    assert (tmp_path / "a").read_text() == ""


@pytest.mark.parametrize("words", [(), ("--json",)], ids=str)
def test_a_command_on_a_full_disk_says_what_is_lost(execute, full, words, tmp_path):
    done = execute(*words, tmp_path / "a", stdout=full)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "svit-det a: the run is done, but standard output cannot be written (No space left on "
        "device).\n"
    )
    assert (tmp_path / "a").read_text() == "done"


@pytest.mark.parametrize("words", [(), ("--json",)], ids=str)
@pytest.mark.parametrize("closed", [False, True])
def test_a_command_that_nobody_listens_to(execute, unread, words, closed, tmp_path):
    own = {"preexec_fn": lambda: os.close(1)} if closed else {"stdout": unread}
    done = execute(*words, tmp_path / "a", **own)
    # With --json all else goes to standard error.
    assert (done.returncode, done.stderr) == (0, "table\n" if words else "")
    assert (tmp_path / "a").read_text() == "done"


def test_every_character_can_be_printed_unbuffered_too(tmp_path):
    code = PREPARED + "print('\\udcff'); os.write(1, b'next')"
    assert call(code).stdout == "next\\udcff\n"  # buffered: the text comes at the end
    unbuffered = subprocess.run(
        [sys.executable, "-u", "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert unbuffered.stdout == "\\udcff\nnext"
