"""The console command: which commands there are, and that all of them spell their options alike."""

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from svit_det.cli.commands import COMMANDS
from svit_det.cli.execution import command_parser, execute, import_command
from svit_det.cli.options import split_pictures
from svit_det.cli.program import available, main, overview

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(available())
# Other words for what has a name already, and that name.
OTHER_WORDS = {
    "--config": "--config-file",
    "--cfg": "--config-file",
    "--checkpoint": "--weights",
    "--model": "--weights",
    "--out": "--output",
    "--output-dir": "--output",
    "--output-folder": "--output",
    "--force": "--overwrite",
    "--replace": "--overwrite",
    "--gpu": "--device",
    "--image": "PICTURE",
    "--data": "--image-folder",
    "--threshold": "--min-score",
    "--score": "--min-score",
    "--keep-ratio": "--budget",
}
DETECTRON2 = {"--num-gpus", "--num-machines", "--machine-rank", "--dist-url", "--resume"}


def options_of(name):
    """Every option of a command by its long spelling, hidden ones left out."""
    command = import_command(f"svit_det.cli.{COMMANDS[name].module}")
    actions = command_parser(command, f"svit-det {name}")._actions
    return {
        spelling: action
        for action in actions
        if action.help != argparse.SUPPRESS
        for spelling in action.option_strings
        if spelling.startswith("--")
    }


@pytest.fixture(scope="module")
def options():
    """Of every command."""
    return {name: options_of(name) for name in NAMES}


# ------------------------------------------------------------------ one spelling


def test_every_option_is_spelled_in_one_way(options):
    found = {(name, word) for name, own in options.items() for word in own}
    assert {(name, word) for name, word in found if word in OTHER_WORDS} == set()
    odd = {word for _, word in found if not re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*", word)}
    assert odd == set()


def test_every_command_has_what_all_have(options):
    for name, own in options.items():
        assert {"--json", "--import", "--help"} <= set(own), name


def test_one_option_is_one_thing_in_all_commands(options):
    """The same kind and number of values, under the same name in the code."""
    seen = {}
    for name, own in options.items():
        for word, action in own.items():
            # A report and a figure take one or more models.
            several = name in ("report", "figures") and word in ("--weights", "--config-file")
            nargs = None if several else action.nargs
            kind = (type(action).__name__, action.dest, nargs)
            if name == "train" and word == "--config-file":
                kind = seen.get(word, kind)  # detectron2's own
            assert seen.setdefault(word, kind) == kind, f"{word} of {name}"


def test_what_writes_files_has_output(options):
    writers = {"predict", "visualize", "compare", "benchmark", "export", "convert", "demo"}
    for name in writers & set(NAMES):
        assert "--output" in options[name], name


def test_train_has_the_options_of_detectron2(options):
    assert {"--config-file", "--eval-only"} | DETECTRON2 <= set(options["train"])
    others = {word for name in NAMES if name not in ("train", "classify") for word in options[name]}
    assert not others & DETECTRON2


def test_every_option_is_explained(options):
    for name, own in options.items():
        assert {word for word, action in own.items() if not action.help} == set(), name


def test_a_help_names_no_script():
    """An installed package has the command, and no folder tools/."""
    for name in NAMES:
        command = import_command(f"svit_det.cli.{COMMANDS[name].module}")
        shown = command_parser(command, f"svit-det {name}").format_help()
        assert not re.search(r"tools/(?!setup/)", shown), name


# ------------------------------------------------------------------ the table


def test_every_script_in_tools_is_a_command_of_a_few_lines():
    scripts = {path.name for path in (ROOT / "tools").glob("*.py")}
    assert scripts <= {command.tool for command in COMMANDS.values()}
    for name in NAMES:
        tool = COMMANDS[name].tool
        if tool is not None:
            text = (ROOT / "tools" / tool).read_text()
            assert f'run_tool("{name}")' in text and len(text.splitlines()) < 12


def run_fresh(code):
    """A process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def test_the_overview_needs_nothing_heavy():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'detectron2', 'numpy')));"
        "from svit_det.cli.program import main; sys.exit(main(['--help']))"
    )
    printed = run_fresh(code).stdout
    assert printed.strip() == overview()
    for name in NAMES:
        assert f"  {name} " in printed


@pytest.mark.parametrize("missing", ["torch", "detectron2"])
def test_without_what_it_needs_a_command_says_so(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None;"
        "from svit_det.cli.program import main;"
        "print(main(['visualize', '--output', 'x', 'y'])); print(main(['doctor']))"
    )
    run = run_fresh(code)
    assert [line for line in run.stdout.splitlines() if line in ("0", "1")] == ["1", "1"]
    said = run.stderr.splitlines()
    assert said[0].startswith(f"svit-det visualize: {missing}") and "svit-det doctor" in said[0]
    assert f"[missing] {missing}" in run.stdout
    assert said[-1].startswith("svit-det doctor: No model runs here without ")


def test_an_unknown_command(capsys):
    assert main(["benchmarks"]) == 2
    assert (
        capsys.readouterr().err
        == "svit-det: no command 'benchmarks'; the nearest is 'benchmark'.\n"
    )
    for odd in ("TRAIN", "tr\nain", "\x1b[31m", "x" * 5000):
        assert main([odd]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "\x1b" not in said and len(said) < 200
    assert main([]) == 2
    assert "usage: svit-det" in capsys.readouterr().err
    assert main(["--version"]) == 0


# ------------------------------------------------------------------ running one


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Factory: a command of this text, by the name of its module."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(body, name):
        text = f"""
            import argparse, os, sys
            from svit_det.errors import InputError
            def build_parser():
                parser = argparse.ArgumentParser()
                parser.add_argument("--number", type=int, default=1)
                return parser
            def run(args):
                {body}
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return make


def test_under_json_stdout_is_the_result_alone(command, capfd):
    body = (
        "print('for people'); os.system('echo from a child'); return {'n': args.number, 'x': 1e999}"
    )
    assert execute(command(body, "a_command"), ["--json", "--number", "3"], program="p") == 0
    said = capfd.readouterr()
    assert json.loads(said.out) == {"n": 3, "x": None}
    assert sorted(said.err.splitlines()) == ["for people", "from a child"]


def test_without_json_the_result_is_not_printed(command, capfd):
    body = "print('for people'); return {'n': args.number}"
    assert execute(command(body, "b_command"), [], program="p") == 0
    assert capfd.readouterr().out == "for people\n"


def test_a_refusal_under_json(command, capfd):
    name = command("raise InputError('give more.')", "c_command")
    assert execute(name, ["--json"], program="p") == 1
    said = capfd.readouterr()
    assert json.loads(said.out) == {"error": "give more."} and said.err == "p: give more.\n"
    assert execute(name, [], program="p") == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err == "p: give more.\n"


def test_an_abbreviated_json_is_json(command, capfd):
    """argparse takes the beginning of an option for the option."""
    for number, word in enumerate(("--js", "--jso", "--json")):
        assert execute(command("return {'n': 1}", f"short_{number}"), [word], program="p") == 0
        assert json.loads(capfd.readouterr().out) == {"n": 1}


@pytest.mark.parametrize(
    "body",
    [
        "raise MemoryError",
        "import torch; torch.empty(1 << 62)",
        "import torch; torch.empty(1 << 40, 1 << 40)",
        "import numpy; numpy.zeros(1 << 50)",
    ],
)
def test_a_want_of_memory_is_said_in_a_sentence(command, capfd, body):
    name = command(body, f"large_{abs(hash(body))}")
    assert execute(name, ["--json"], program="p") == 1
    said = capfd.readouterr()
    assert said.err.startswith("p: there is not enough memory for what was asked for; choose")
    assert said.err.count("\n") == 1 and json.loads(said.out)["error"] in said.err


def test_other_errors_are_not_hidden(command):
    with pytest.raises(RuntimeError, match="other"):
        execute(command("raise RuntimeError('other')", "other"), [], program="p")


def test_a_package_that_registers_a_policy_is_imported_first(command, capfd, tmp_path, monkeypatch):
    name = command("return {'seen': sorted(m for m in sys.modules if m.startswith('my_pol'))}", "d")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/my_policies.py").write_text("")
    (tmp_path / "elsewhere/my_broken.py").write_text("1 / 0")
    (tmp_path / "elsewhere/my_ending.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert execute(name, ["--json", "--import", "my_policies"], program="p") == 0
    assert json.loads(capfd.readouterr().out) == {"seen": ["my_policies"]}
    for package, said in (
        ("my_missing", "no such package, neither installed nor in"),
        ("my_broken", "importing it fails (ZeroDivisionError: division by zero)."),
        ("my_ending", "importing it fails (SystemExit: 0)."),
    ):
        assert execute(name, ["--import", package], program="p") == 1
        assert f"p: --import {package}: " in (error := capfd.readouterr().err) and said in error


def test_pictures_end_where_keys_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_pictures(["a.png", "B", "SEED", "1"]) == (["a.png", "B"], ["SEED", "1"])
    assert split_pictures(["a", "MODEL.DEVICE", "cpu"]) == (["a"], ["MODEL.DEVICE", "cpu"])
    assert split_pictures(["MODEL.DEVICE", "cpu"]) == ([], ["MODEL.DEVICE", "cpu"])
    (tmp_path / "SEED").mkdir()
    (tmp_path / "IMG.PNG").touch()
    assert split_pictures(["IMG.PNG", "SEED"]) == (["IMG.PNG", "SEED"], [])
