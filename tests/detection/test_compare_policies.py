"""tools/compare_policies.py on the tiny model: what it trains, keeps, measures and draws."""

import json

import cv2
import pytest
import torch


@pytest.fixture(scope="module")
def parent(tiny_yaml, tmp_path_factory):
    """Weights of a tiny dense detector."""
    from detectron2.modeling import build_model

    from svit_det.detection import load_config

    cfg = load_config(str(tiny_yaml.with_name("dense.yaml")))
    path = tmp_path_factory.mktemp("parent") / "dense.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


def test_it_trains_alike_keeps_what_is_done_and_reports(fork_tool, tiny_yaml, parent, tmp_path):
    output = tmp_path / "out"
    config = tiny_yaml.with_name("dense.yaml")
    arguments = ["--config-file", config, "--weights", parent, "--output", output]
    arguments += ["--policies", "Dense", "EvoViT", "--seeds", "5", "--steps", "1", "--jobs", "2"]
    # Dense has no schedule: the tool leaves these out of its training.
    arguments += ["MODEL.TOKEN_POLICY.LAYERS", "[1, 2]"]
    arguments += ["MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.5]"]
    done = fork_tool("compare_policies.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((output / "results.json").read_text())
    assert found["dataset"] == "discs_val" and found["steps"] == 1
    dense, evo = (found["policies"][name] for name in ("Dense", "EvoViT"))
    assert dense["runs"]["5"]["kept"] == 100 and dense["runs"]["5"]["returning"] is None
    # Three blocks, of which the last two process .7 and .5 of 64 tokens.
    assert evo["runs"]["5"]["kept"] == pytest.approx(100 * (1 + 44 / 64 + 0.5) / 3, abs=3)
    assert evo["runs"]["5"]["overlap"] < 100
    assert evo["gmacs"]["trunk"] < dense["gmacs"]["trunk"] < dense["gmacs"]["detector"]
    assert dense["speed_up_over_dense"]["median"] == 1.0
    for name in ("Dense", "EvoViT"):
        assert name in done.stdout
        assert len(list((output / "pictures").glob(f"*_{name}_keep_maps.png"))) == 3
    assert cv2.imread(str(output / "kept_tokens.png")).std() > 5

    logs = {path: path.stat().st_mtime_ns for path in output.glob("*/model_final.pth")}
    assert len(logs) == 2
    again = fork_tool("compare_policies.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    other = fork_tool("compare_policies.py", *arguments, "SOLVER.BASE_LR", "0.5")
    assert other.returncode == 1
    assert "holds a training with other settings" in other.stderr.splitlines()[-1]


def test_refused(refused, fork_tool, tiny_yaml, parent, tmp_path):
    start = ["--config-file", tiny_yaml.with_name("dense.yaml"), "--output", tmp_path / "out"]
    said = refused("compare_policies.py", *start, "--weights", parent, "--policies", "EVit")
    assert "'EVit' is not registered" in said and "EViT" in said
    said = refused("compare_policies.py", *start, "--weights", "nowhere.pth")
    assert "nowhere.pth: no such file" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--steps", "0")
    assert "--steps" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--seeds", "1", "1")
    assert "--seeds 1 1: names one twice" in said
    broken = ["--weights", parent, "--policies", "Dense", "--seeds", "1", "--steps", "1"]
    done = fork_tool("compare_policies.py", *start, *broken, "MODEL.VIT.DEPTH", "4")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # after the progress bar
    assert "Training Dense with seed 1 failed" in last and "output.txt" in last
