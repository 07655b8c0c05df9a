"""The one command that reproduces the shipped weights, cut down to two steps a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "configs/demo"


def test_it_trains_both_models_and_exports_what_ships(tmp_path):
    if not (PROJECT / "datasets/nuclei/annotations/train.json").is_file():
        pytest.skip("the default data set is not prepared: run `make data`")
    before = {path: path.stat().st_mtime_ns for path in SHIPPED.iterdir()}
    command = [sys.executable, "tools/train_demo.py", "--output", str(tmp_path), "--steps", "2"]
    command += ["DATASETS.TEST", "()"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("dense", "svit"):
        assert f"Training and evaluating {name} took" in done.stdout
        trained = load_file(tmp_path / f"{name}.safetensors")
        shipped = load_file(SHIPPED / f"{name}.safetensors")
        assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in shipped.items()}
        assert trained["backbone.net.net.trunk.blocks.0.attn.qkv.weight"].dtype == torch.float16
    # SViT starts from the dense weights: two steps of warm-up hardly move them.
    dense, svit = (load_file(tmp_path / f"{name}.safetensors") for name in ("dense", "svit"))
    name = "backbone.net.net.trunk.blocks.0.attn.qkv.weight"
    assert (dense[name].float() - svit[name].float()).abs().max() < 1e-3
    assert before == {path: path.stat().st_mtime_ns for path in SHIPPED.iterdir()}
