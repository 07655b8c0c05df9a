"""The demo on digits: both shipped classifiers, their pictures, and their speed."""

import json

import cv2
import numpy as np
import pytest

from svit_det.cli import benchmark_classifier, classifiers_in_turn, demo_classification
from svit_det.cli.benchmark_classifier import WAYS
from svit_det.cli.program import main


@pytest.fixture
def digits(tmp_path):
    """A folder in the layout of the digits, with two drawn pictures of each."""
    for digit in "0123456789":
        folder = tmp_path / "digits/val" / digit
        folder.mkdir(parents=True)
        for number in range(2):
            image = np.zeros((56, 56, 3), np.uint8)
            cv2.putText(image, digit, (12 + 4 * number, 46), 0, 1.6, (255, 255, 255), 4)
            cv2.imwrite(str(folder / f"{number}.png"), image)
    return tmp_path / "digits"


def test_the_whole_demo(digits, tmp_path, capsys, monkeypatch):
    for name in ("BATCHES", "REPEATS", "WARMUP"):  # of the speeds in table 1
        monkeypatch.setattr(classifiers_in_turn, name, 1)
    output = tmp_path / "out"
    assert main(["demo-classification", "--data-root", str(digits), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "20 digits" in said and "Images per second" in said
    found = json.loads((output / "results.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["dense", "svit"]
    sizes = [row["batch_size"] for row in found["speed"]]
    assert sizes == [1, 2, 4, 8]
    for row in found["speed"]:
        assert set(row["images_per_second"]) == {"dense", *WAYS}
    assert cv2.imread(str(output / "digits.png")).std() > 10
    assert list((output / "speed").glob("*.png"))


def test_figure_1_runs_on_the_device_of_the_other_numbers(tmp_path, monkeypatch):
    """On a machine with a GPU the benchmark would take the GPU by itself."""
    asked = []
    monkeypatch.setattr(benchmark_classifier, "run", lambda args: asked.append(args.device) or {})
    demo_classification.measure_speed(tmp_path, tmp_path / "speed")
    assert asked == ["cpu"]
