"""Names from outside, which may be no text at all, are shown on one line and end no program."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from svit_det.errors import InputError, printable
from svit_det.results import write_json

PROJECT = Path(__file__).resolve().parents[1]
NAME = os.fsdecode(b"\xff\xfe a\x1b[2J\n<b>\xe2\x80\xae.png")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢.png", "plain ü 漢.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("turned \u202egnp.exe", "turned \\u202egnp.exe"),
        ("\udcff", "\\udcff"),
        (Path("a b"), "a b"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(text).encode()


def test_a_refusal_is_one_line_whatever_it_names():
    refusal = InputError(f"{NAME}: no such image.")
    assert str(refusal).isprintable() and str(refusal).encode()
    assert str(pickle.loads(pickle.dumps(refusal))) == str(refusal)


def test_a_refusal_can_be_read_whatever_it_names():
    refusal = InputError(f"weights.pth: {'x' * 10**6} is not in the model.")
    assert len(str(refusal)) < 6000
    assert str(refusal).startswith("weights.pth: x") and str(refusal).endswith("in the model.")
    assert " ... " in str(refusal)
    longest_path = "x" * 4096
    assert str(InputError(f"{longest_path}: no such image.")) == f"{longest_path}: no such image."


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_program_prints_any_name(encoding):
    program = (
        "from svit_det.startup import prepare_process; prepare_process(); import os;"
        "print(os.fsdecode(b'\\xff.png'), '\\u00fc'); print('went on')"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\udcff.png" in done.stdout and b"went on" in done.stdout


def test_results_name_any_file(tmp_path):
    write_json(tmp_path / "a.json", {NAME: {"name": NAME}})
    text = (tmp_path / "a.json").read_text(encoding="ascii")
    assert json.loads(text) == {NAME: {"name": NAME}}
