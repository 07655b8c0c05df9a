"""Converted released classifiers, small and with random weights, in the commands that read them."""

import json
import logging

import pytest
import torch

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.load import read_trained
from svit_det.cli.attention_figure import main as figure
from svit_det.cli.classification_tables import main as tables
from svit_det.cli.program import main as program
from svit_det.cli.train_classifier import main as train
from svit_det.weights.classifiers import to_released
from svit_det.weights.files import DESCRIPTION, read_description, write_weights

KINDS = {
    "deit": {"NAME": "Dense"},
    "svit": {"NAME": "SViT", "SVIT__MODE": "sample"},
    "evit": {"NAME": "EViT"},
    "evo-vit": {"NAME": "EvoViT"},
    "dynamic-vit": {"NAME": "DynamicViT"},
    "a-vit": {"NAME": "AViT"},
}


@pytest.fixture
def converted(a_yaml, small, tmp_path, capsys):
    """Factory: the converted file of a released classifier, and what the command said."""

    def make(kind, **policy):
        keys = {f"MODEL__TOKEN_POLICY__{key}": value for key, value in policy.items()}
        if kind == "evo-vit":
            keys["MODEL__READS"] = "two_heads"
        options = small(**keys, MODEL__WEIGHTS="the_parent.pth")
        model = build_classifier(load_config(a_yaml, options))
        released, ours = tmp_path / f"{kind}_released.pth", tmp_path / f"{kind}.pth"
        write_weights(to_released(kind, model, source="a model"), released)
        words = ["convert", "--classifier", "--from", kind, "--weights", str(released)]
        words += ["--config-file", a_yaml, "--output", str(ours), *options]
        assert program(words) == 0
        return ours, capsys.readouterr().out

    return make


def test_converted_classifiers_enter_the_tables(converted, tmp_path, caplog):
    files = [f"{kind}={converted(kind, **policy)[0]}" for kind, policy in KINDS.items()]
    assert tables([*files, "--device", "cpu", "--output", str(tmp_path / "tables.json")]) is None
    rows = json.loads((tmp_path / "tables.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(KINDS)
    assert all(row["found"]["images"] == 12 and not row["from_scratch"] for row in rows)
    assert "tracked the thresholds" not in caplog.text


def test_converted_classifiers_enter_the_figure(converted, generated_images, tmp_path):
    dense, pruned = (str(converted(kind, **KINDS[kind])[0]) for kind in ("deit", "evit"))
    picture = str(generated_images / "val/red/0.png")
    output = ["--output", str(tmp_path / "sheets")]
    assert figure(["--dense", dense, "--pruned", pruned, picture, *output]) is None
    told = json.loads((tmp_path / "sheets/attention_figure.json").read_text())
    assert "EViT" in told["caption"] and "begun from the_parent.pth" in told["caption"]


def test_the_reverse_holds_no_description(converted, a_yaml, small, tmp_path):
    ours, _ = converted("deit", NAME="Dense")
    back = tmp_path / "back.pth"
    words = ["convert", "--classifier", "--from", "deit", "--weights", str(ours), "--reverse"]
    assert program([*words, "--config-file", a_yaml, "--output", str(back), *small()]) == 0
    assert read_description(str(ours))["policy"] == "Dense"
    assert read_description(str(back)) == {}


UNTRACKED = (
    "no training has tracked the thresholds of SViT, so that mode threshold takes 0 for each of "
    "them and may keep nothing in the last blocks; set MODEL.TOKEN_POLICY.SVIT.MODE sample, as the "
    "release does."
)


def test_thresholds_that_no_training_tracked_are_named(converted, a_yaml, small, tmp_path, caplog):
    """When the file is written, and by each command that evaluates it."""
    ours, said = converted("svit", NAME="SViT")
    assert f"{ours}: {UNTRACKED}" in said
    assert tables([str(ours), "--device", "cpu", "--output", str(tmp_path / "a.json")]) is None
    assert f"{ours}: {UNTRACKED}" in caplog.text
    options = small(MODEL__TOKEN_POLICY__NAME="SViT", MODEL__WEIGHTS=ours)
    words = ["--config-file", a_yaml, "--eval-only"]
    assert train([*words, *options]) is None
    assert f"{ours}: {UNTRACKED}" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize("key", ["SVIT__MODE", "TEST_KEEP_RATIO", "tracked"])
def test_nothing_is_said_where_no_such_threshold_decides(key, converted, caplog):
    given = {"SVIT__MODE": "argmax", "TEST_KEEP_RATIO": 0.5}
    ours, said = converted("svit", NAME="SViT", **({key: given[key]} if key in given else {}))
    if key == "tracked":
        content = torch.load(ours, weights_only=True)
        content["model"]["trunk.policy.budget.num_batches_tracked"] += 1
        torch.save(content, ours)
    else:
        assert "tracked" not in said
    with caplog.at_level(logging.WARNING):
        read_trained(str(ours))
    assert "tracked" not in caplog.text
    assert DESCRIPTION in torch.load(ours, weights_only=True)
