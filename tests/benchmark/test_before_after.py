"""benchmarks/before_after.py: its command line, its figures by hand, and a run against itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--old is missing: the folder of the commit before"),
        (["--old", "nowhere"], "--old nowhere: has no svit_det; name a checkout"),
        (["--old", str(ROOT), "--new", "nowhere"], "--new nowhere: has no svit_det"),
        (["--old", str(ROOT), "--launches", "0"], "--launches: 0 is no whole number of one"),
        (["--old", str(ROOT), "--threads", "x"], "--threads: x is no whole number of one"),
        (["--old", str(ROOT), "--tokens", "7"], "--tokens: invalid choice: 7"),
    ],
)
def test_bad_input(before_after, words, complaint, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["before_after.py", *words])
    with pytest.raises(SystemExit) as ended:
        before_after.main()
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


def test_results_that_are_there_stay(before_after, tmp_path, monkeypatch, capsys):
    path = tmp_path / "found.json"
    path.write_text("precious")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["before_after.py", "--old", ".", "--output", str(path)])
    with pytest.raises(SystemExit):
        before_after.main()
    assert f"--output {path}: is there already; give --overwrite" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_ratios_by_hand(before_after):
    """Two launches of two rounds: ratios of .5 and 1, and of 2 and 2."""
    launches = [{"old": [2.0, 1.0], "new": [1.0, 1.0]}, {"old": [1.0, 1.0], "new": [2.0, 2.0]}]
    found = before_after.summarise(launches)
    assert found["new_over_old"] == 1.5 and found["medians_of_launches"] == [0.75, 2.0]
    assert (found["old_ms"], found["new_ms"]) == (1000, 1500)


@pytest.mark.long
def test_a_checkout_against_itself(tmp_path):
    path = tmp_path / "out/found.json"
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/before_after.py", "--old", ".", "--output", str(path)),
            *("--policies", "Dense", "SViT", "--sizes", "T", "--tokens", "256"),
            *("--launches", "1", "--rounds", "2", "--turn", "0.01"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for case, policy in zip(json.loads(path.read_text()), ("Dense", "SViT"), strict=True):
        assert case["policy"] == policy and case["same_kept_counts"]
        assert case["largest_difference"] == 0 and case["new_over_old"] > 0
        assert [len(each["old"]) for each in case["raw_seconds"]] == [2]
    assert "SViT ViT-T, 256 tokens, 1 threads" in done.stdout
