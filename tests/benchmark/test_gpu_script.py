"""benchmarks/gpu.sh runs on a CPU at toy sizes, so that it works when there is a GPU again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_whole_script(tmp_path):
    environment = {**os.environ, "TOY": "1", "DEVICE": "cpu", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob("*_cpu_checks.json")
    files = json.loads(written.read_text())["files"]
    folders = {Path(name).parts[0] for name in files}
    runs = {"t_float32", "s_bfloat16", "detector_t_bfloat16", "training_t", "training_s"}
    assert folders == {"device_checks", "classifier", *runs}
    for name, found in files.items():
        parts = [row["part"] for row in found.get("rows", [])]
        if name.startswith("training"):
            assert parts == ["training"]
        elif name.startswith("detector"):
            assert parts == ["detector"] and found["dtype"] == "bfloat16"
        elif name.startswith("classifier"):
            speeds = [row["images_per_second"] for row in found["throughput"]]
            assert len(speeds) == 2 and all(len(each) == 5 for each in speeds)
        elif not name.startswith("device_checks"):
            assert found["dtype"] == Path(name).parts[0].partition("_")[2]
            whole = ["detector"] if found["dtype"] == "float32" else []
            assert parts == ["blocks", "backbone", *whole]
    assert " passed" in done.stdout.partition("== device_checks")[0]  # the laws


def test_a_step_that_fails_is_named(tmp_path):
    """No Python: every step fails, each is named, and so does the script."""
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", tmp_path],
        env={**os.environ, "TOY": "1", "DEVICE": "cpu", "PYTHON": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    steps = "laws device_checks t_float32 s_bfloat16 detector_t_bfloat16 training_t training_s"
    assert f"failed: {steps} classifier collect\n" in done.stdout


def test_the_steps_fit_into_eight_minutes(tmp_path):
    """On a GPU, with a `timeout` that notes its seconds and runs nothing."""
    noted, instead = tmp_path / "seconds", tmp_path / "bin/timeout"
    instead.parent.mkdir()
    instead.write_text(f'#!/bin/sh\necho "$1 $*" >> "{noted}"\n')
    instead.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name != "TOY"}
    path = f"{instead.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", tmp_path / "output"],
        env={**clean, "DEVICE": "cuda", "PATH": path},
        capture_output=True,
        check=True,
    )
    calls = noted.read_text().splitlines()
    assert sum(int(call.split()[0]) for call in calls) < 470
    trained = [call for call in calls if "--parts training" in call]
    assert ["configs/svit_t" in call for call in trained] == [True, False]
    assert all("--batch-sizes 1 4" in call for call in trained)
    assert sum("--dtype bfloat16" in call for call in calls) == 3
    (figure,) = [call for call in calls if "benchmark_classifier.py" in call]
    assert "--ways packed nested padded --batch-sizes 1 8 64 256 512 " in figure
