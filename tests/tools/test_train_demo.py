"""The one command that reproduces the shipped weights, cut down to two steps a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svit_det.weights.files import DESCRIPTION, read_checkpoint

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "configs/demo"
PLAIN = "backbone.net.net.trunk.blocks.0.attn.qkv.weight"
ADAPTER = "backbone.bottom_up.net.trunk.blocks.0.attn.qkv.weight"
NAMES = {"dense": PLAIN, "svit": PLAIN, "adapter_dense": ADAPTER, "adapter_svit": ADAPTER}


@pytest.mark.long
def test_it_trains_all_models_and_exports_what_ships(tmp_path):
    if not (PROJECT / "datasets/nuclei/annotations/train.json").is_file():
        pytest.skip("the default data set is not prepared: run `make data`")
    before = {path: path.stat().st_mtime_ns for path in SHIPPED.iterdir()}
    command = [sys.executable, "tools/train_demo.py", "--output", str(tmp_path), "--steps", "2"]
    command += ["DATASETS.TEST", "()"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("dense", "svit", "adapter_dense", "adapter_svit"):
        assert f"Training and evaluating {name} took" in done.stdout
        if name == "adapter_dense":  # does not ship
            continue
        trained = load_file(tmp_path / f"{name}.safetensors")
        shipped = load_file(SHIPPED / f"{name}.safetensors")
        assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in shipped.items()}
        assert trained[NAMES[name]].dtype == torch.float16
        said = read_checkpoint(str(tmp_path / f"{name}.safetensors"))[DESCRIPTION]
        assert said["classes"] == ["nucleus"] and said["train_sets"] == ["nuclei_train"]
        assert said["policy"] == ("Dense" if name == "dense" else "SViT")
    # Each starts from its parent's weights: two steps of warm-up hardly move them.
    first = load_file(tmp_path / "dense.safetensors")[NAMES["dense"]]
    for name, qkv in NAMES.items():
        assert (load_file(tmp_path / f"{name}.safetensors")[qkv] - first).abs().max() < 1e-3, name
    assert before == {path: path.stat().st_mtime_ns for path in SHIPPED.iterdir()}
