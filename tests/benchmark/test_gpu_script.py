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
    assert {"device_checks", "t_float32", "training"} == {Path(name).parts[0] for name in files}
    parts = {row["part"] for found in files.values() for row in found.get("rows", [])}
    assert parts == {"blocks", "backbone", "detector", "training"}


def test_a_step_that_fails_is_named(tmp_path):
    """No Python: every step fails, each is named, and so does the script."""
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", tmp_path],
        env={**os.environ, "TOY": "1", "DEVICE": "cpu", "PYTHON": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "failed: device_checks t_float32 training collect" in done.stdout
