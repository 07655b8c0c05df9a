"""Ctrl-C ends a command with one line and exit status 130, and nothing half-written is left.

Trainings are interrupted in test_killed_runs.py, films in tests/video, classifiers in
tests/classification.
"""

import os
import re
import shutil

import pytest
import torch

from svit_det.weights.files import write_weights

pytestmark = pytest.mark.long
MANY = 1500


@pytest.fixture
def weights(tiny_config, tiny_model, tmp_path):
    """An untrained SViT that carries its config."""
    path = tmp_path / "svit.pth"
    write_weights(tiny_model().state_dict(), path, description={"config": tiny_config().dump()})
    return path


@pytest.fixture
def pictures(discs, tmp_path):
    """More pictures than are done before the interrupt comes."""
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(discs / "images/val_1.png", folder / "0000.png")
    for number in range(1, MANY):
        os.link(folder / "0000.png", folder / f"{number:04}.png")
    return folder


def test_predict(interrupted, weights, pictures, tmp_path):
    output = tmp_path / "out"
    said = interrupted(
        *("predict.py", "--weights", weights, "--output", output, "--min-score", 0, pictures),
        begun=lambda said: len(list(output.glob("*.jpg"))) > 1,
    )
    assert said == ["predict.py: stopped by Ctrl-C."]
    drawn = sorted(os.listdir(output))
    assert drawn == [f"{number:04}.jpg" for number in range(len(drawn))]
    assert 1 < len(drawn) < MANY


def test_report(interrupted, weights, pictures, tmp_path):
    output = tmp_path / "page"
    said = interrupted(
        *("report.py", "--weights", weights, weights, "--output", output / "report.html"),
        *("--min-score", 0, "--allow-untrained", pictures),
        begun=lambda said: re.search(rf" [1-9]\d*/{MANY} ", said),
    )
    assert said == ["report.py: stopped by Ctrl-C."]
    assert not output.exists() or os.listdir(output) == []


@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "kill -INT"])
def test_compare(interrupted, tiny_model, tiny_yaml, tmp_path, everyone):
    """Its trainings are processes of their own, and end with it."""
    dense = tiny_model("MODEL.TOKEN_POLICY.NAME", "Dense")
    torch.save({"model": dense.state_dict()}, tmp_path / "dense.pth")
    output = tmp_path / "out"

    def begun(said):
        logs = list(output.glob("*/output.txt"))
        return len(logs) == 2 and all("Starting training" in log.read_text() for log in logs)

    said = interrupted(
        *("compare_policies.py", "--config-file", tiny_yaml.with_name("dense.yaml")),
        *("--weights", tmp_path / "dense.pth", "--output", output, "--baseline", "EViT"),
        *("--policies", "EViT", "EvoViT", "--seeds", 5, "--steps", 20000, "--jobs", 2),
        *("MODEL.TOKEN_POLICY.LAYERS", "[1, 2]", "MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.5]"),
        begun=begun,
        everyone=everyone,
    )
    assert said == ["compare_policies.py: stopped by Ctrl-C."]
    for folder in output.iterdir():
        names = os.listdir(folder)
        assert "trained_with.json" not in names  # the next run trains it anew
        assert not [name for name in names if "partial" in name]
