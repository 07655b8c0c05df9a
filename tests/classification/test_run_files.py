"""The folder of a training: a run that is refused changes nothing in it; files are whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svit_det.classification.config import load_config
from svit_det.classification.load import read_trained
from svit_det.classification.run_files import FINAL, LAST, clear, write_config
from svit_det.cli import train_classifier
from svit_det.cli.train_classifier import main
from svit_det.errors import InputError
from svit_det.shipped import get_config_file, get_weights_file
from svit_det.training.run_folder import LOCK
from svit_det.weights.files import read_checkpoint, write_weights


@pytest.fixture
def trained(a_yaml, small, tmp_path):
    """A folder in which a training of one epoch has ended."""
    assert main(["--config-file", a_yaml, *small(SOLVER__EPOCHS=1)]) is None
    return tmp_path / "run"


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


REFUSED = {
    "a folder in use": ((), {}, "holds a training already"),
    "another rate": (("--resume",), {"SOLVER__BASE_LR": 1e-3}, "SOLVER.BASE_LR"),
    "a head too small": (("--overwrite",), {"MODEL__NUM_CLASSES": 2}, "the head has 2"),
    "nothing to evaluate": (("--eval-only",), {}, "MODEL.WEIGHTS is empty"),
    "no such weights": (("--eval-only",), {"MODEL__WEIGHTS": "none.pth"}, "no such file"),
    "no such images": (("--eval-only",), {"DATA__ROOT": "nowhere"}, "no folder val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_run_changes_nothing(case, a_yaml, small, trained):
    flags, changed, said = REFUSED[case]
    if case == "no such images":
        changed = {**changed, "MODEL__WEIGHTS": trained / FINAL}
    before = content_of(trained)
    options = small(SOLVER__EPOCHS=1, **changed)
    assert said in main(["--config-file", a_yaml, *flags, *options])
    assert content_of(trained) == before


@pytest.mark.parametrize("key", ["MODEL__WEIGHTS", "SOLVER__TEACHER"])
def test_what_the_new_training_read_stays(key, a_yaml, small, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (LAST, FINAL, "notes.txt"):
        (folder / name).write_text("old")
    clear(load_config(a_yaml, small(**{key: folder / FINAL})))
    assert sorted(content_of(folder)) == [FINAL, "notes.txt"]


def test_a_folder_in_which_a_training_goes_on(a_yaml, small, trained, training_in, monkeypatch):
    """Refused before the sets are read, and once more before the folder is touched."""
    command, options = ["--config-file", a_yaml], small(SOLVER__EPOCHS=1)
    before = content_of(trained)
    with training_in(trained):
        for flags in ((), ("--resume",), ("--overwrite",)):
            said = main([*command, *flags, *options, "DATA.ROOT", "nowhere"])
            assert said.startswith(f"OUTPUT_DIR {trained}: another training is going on")
        monkeypatch.setattr(train_classifier, "refuse_going_on", lambda folder: None)
        assert "another training is going on" in main([*command, "--overwrite", *options])
        assert content_of(trained) == before
        weights = small(SOLVER__EPOCHS=1, MODEL__WEIGHTS=trained / FINAL)
        assert main([*command, "--eval-only", *weights]) is None
    assert main([*command, "--overwrite", *options]) is None


def test_a_training_that_ends_while_this_one_is_built_is_kept(a_yaml, small, tmp_path, monkeypatch):
    def built(cfg, *given):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / FINAL).write_text("of another training")

    monkeypatch.setattr(train_classifier, "Trainer", built)
    said = main(["--config-file", a_yaml, *small(SOLVER__EPOCHS=1)])
    assert "holds a training already" in said
    assert (tmp_path / "run" / FINAL).read_text() == "of another training"


def test_a_training_keeps_its_folder_until_its_results_are_written(
    a_yaml, small, tmp_path, monkeypatch
):
    """Another process that asks for the lock does not get it."""
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    ask = [sys.executable, "-c", code, str(tmp_path / "run" / LOCK)]
    said = []
    monkeypatch.setattr(
        train_classifier,
        "write_json",
        lambda *given: said.append(subprocess.run(ask, capture_output=True, text=True).stderr),
    )
    assert main(["--config-file", a_yaml, *small(SOLVER__EPOCHS=1)]) is None
    assert len(said) == 1 and "BlockingIOError" in said[0]
    subprocess.run(ask, check=True)


def test_an_evaluation_that_fails_leaves_the_older_results(a_yaml, small, trained, tmp_path):
    before = content_of(trained)
    for label in "abc":
        (tmp_path / "broken/val" / label).mkdir(parents=True)
        (tmp_path / "broken/val" / label / "0.png").write_text("no image")
    changed = {"MODEL__WEIGHTS": trained / FINAL, "DATA__ROOT": tmp_path / "broken"}
    said = main(["--config-file", a_yaml, "--eval-only", *small(SOLVER__EPOCHS=1, **changed)])
    assert "not one of its images can be read" in said
    after = content_of(trained)
    assert {name for name in after if after[name] != before.get(name)} == {"log.txt"}


def test_an_evaluation_replaces_the_older_results_and_config(a_yaml, small, trained):
    changed = {"MODEL__WEIGHTS": trained / FINAL, "TEST__BATCH_SIZE": 3}
    (trained / "results.json").write_text("old")
    assert (
        main(["--config-file", a_yaml, "--eval-only", *small(SOLVER__EPOCHS=1, **changed)]) is None
    )
    assert json.loads((trained / "results.json").read_text())["images"] == 12
    assert "BATCH_SIZE: 3" in (trained / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["log.txt", "results.json", "config.yaml", LAST, FINAL])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_stands_where_a_run_has_a_file(name, make, a_yaml, small, tmp_path):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    for flags in ((), ("--resume",), ("--overwrite",)):
        said = main(["--config-file", a_yaml, *flags, *small(SOLVER__EPOCHS=1)])
        assert f"{name} is no file, where the run has one" in said


def test_a_refused_run_makes_no_folder(a_yaml, small, tmp_path):
    assert main(["--config-file", a_yaml, *small(MODEL__NUM_CLASSES=2)])
    assert not (tmp_path / "run").exists()


def test_what_was_logged_before_the_run_began_is_kept(a_yaml, small, trained, tmp_path):
    """That the weights of another head start anew is said before the folder is written to."""
    content = torch.load(trained / FINAL, weights_only=True)
    content["model"]["head.weight"] = content["model"]["head.weight"][:2]
    content["model"]["head.bias"] = content["model"]["head.bias"][:2]
    torch.save(content, tmp_path / "two.pth")
    new = {"MODEL__WEIGHTS": tmp_path / "two.pth", "OUTPUT_DIR": tmp_path / "new"}
    assert main(["--config-file", a_yaml, *small(SOLVER__EPOCHS=1, **new)]) is None
    log = (tmp_path / "new/log.txt").read_text()
    assert log.count("head.weight and 1 more starts as initialised") == 1
    assert log.index("starts as initialised") < log.index("epoch 1: top-1")


def test_a_config_is_written_whole_or_not_at_all(a_yaml, small, trained, monkeypatch):
    before = (trained / "config.yaml").read_bytes()
    cfg = load_config(a_yaml, small(SOLVER__SEED=8))

    def half(path, text):
        path.write_bytes(text.encode()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", half)
        with pytest.raises(InputError, match=r"config\.yaml: cannot be written"):
            write_config(cfg)
    assert (trained / "config.yaml").read_bytes() == before
    write_config(cfg)
    assert "SEED: 8" in (trained / "config.yaml").read_text()
    assert {path.name for path in trained.iterdir()} >= {LAST, FINAL}
    assert not [path for path in trained.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--overwrite",)])
def test_a_folder_that_cannot_be_made(flags, a_yaml, small, tmp_path):
    (tmp_path / "run").write_text("a file")
    said = main(["--config-file", a_yaml, *flags, *small()])
    assert said.startswith(f"OUTPUT_DIR {tmp_path / 'run'}: cannot be written")
    assert (tmp_path / "run").read_text() == "a file"


def test_no_name_of_a_folder(a_yaml, small):
    assert main(["--config-file", a_yaml, *small(OUTPUT_DIR='""')]).startswith("OUTPUT_DIR is empt")


def test_a_file_that_is_there_is_not_exported_over(a_yaml, small, trained, tmp_path):
    """Neither another file nor, in any case, the weights that are read."""
    half = tmp_path / "half.safetensors"

    def export(weights, *flags):
        options = small(MODEL__WEIGHTS=weights, OUTPUT_DIR=tmp_path / "evaluated")
        return main(
            ["--config-file", a_yaml, "--eval-only", "--export", str(half), *flags, *options]
        )

    assert export(trained / FINAL) is None
    before = half.read_bytes()
    assert "is there already; give --overwrite" in export(trained / FINAL)
    assert "is one of the files that are read" in export(half, "--overwrite")
    assert half.read_bytes() == before
    assert export(trained / FINAL, "--overwrite") is None


def test_an_export_says_how_the_model_was_trained(a_yaml, small, trained, tmp_path):
    """What the training began from, its length and set; of the evaluation the model alone."""
    policy = {"MODEL__TOKEN_POLICY__NAME": "SViT", "SOLVER__EPOCHS": 1}
    tuned = {"MODEL__WEIGHTS": trained / FINAL, "OUTPUT_DIR": tmp_path / "tuned"}
    assert main(["--config-file", a_yaml, *small(**policy, **tuned)]) is None
    half = tmp_path / "half.safetensors"
    words = ["--config-file", a_yaml, "--eval-only", "--export", str(half)]
    policy |= {"MODEL__TOKEN_POLICY__SVIT__MODE": "argmax", "SOLVER__EPOCHS": 9}
    evaluated = {"MODEL__WEIGHTS": tmp_path / "tuned" / FINAL, "OUTPUT_DIR": tmp_path / "evaluated"}
    assert main([*words, *small(**policy, **evaluated)]) is None
    cfg, model = read_trained(str(half))
    assert str(trained / FINAL) == cfg.MODEL.WEIGHTS and cfg.SOLVER.EPOCHS == 1
    assert str(tmp_path / "tuned") == cfg.OUTPUT_DIR
    assert cfg.MODEL.TOKEN_POLICY.SVIT.MODE == "argmax" == model.trunk.policy.mode


def test_an_export_of_weights_without_a_config_has_the_one_of_the_evaluation(
    a_yaml, small, trained, tmp_path
):
    bare, half = tmp_path / "bare.safetensors", tmp_path / "half.safetensors"
    write_weights(read_checkpoint(str(trained / FINAL))["model"], bare)
    options = small(MODEL__WEIGHTS=bare, OUTPUT_DIR=tmp_path / "evaluated")
    assert main(["--config-file", a_yaml, "--eval-only", "--export", str(half), *options]) is None
    assert str(tmp_path / "evaluated") == read_trained(str(half))[0].OUTPUT_DIR


@pytest.mark.parametrize(
    ("weights", "config", "apart"),
    [
        ("digits/dense", "digits/dense", set()),
        ("digits/svit", "digits/compare/svit", {"SEED", "OUTPUT_DIR"}),
    ],
)
def test_the_shipped_weights_hold_the_config_of_their_yaml(weights, config, apart):
    """The seed and the folder are those of a comparison."""
    given = ["MODEL.DEVICE", "cpu"]
    held, _ = read_trained(get_weights_file(weights), given)
    wanted = load_config(get_config_file(config), given)
    assert {key for key, value in wanted.SOLVER.items() if held.SOLVER[key] != value} <= apart
    assert {key for key, value in wanted.items() if held[key] != value} <= {*apart, "SOLVER"}
    assert held.MODEL.WEIGHTS == wanted.MODEL.WEIGHTS
