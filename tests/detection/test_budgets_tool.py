"""tools/budgets.py: how closely a budget is met, as a table and as JSON."""

import json

import pytest
from safetensors.torch import save_file

DENSE = ("MODEL.TOKEN_POLICY.NAME", "Dense")


@pytest.fixture
def weights(tiny_model, tmp_path):
    path = tmp_path / "svit.safetensors"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, path)
    return path


@pytest.mark.parametrize("more", [(), ("--follow",)], ids=["by image", "following"])
def test_each_budget_is_met(fork_tool, tiny_yaml, weights, discs, more):
    run = fork_tool(
        *("budgets.py", "--config-file", tiny_yaml, "--weights", weights),
        *("--json", *more, "--input", discs / "images"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads(run.stdout)
    assert [row["budget"] for row in said["budgets"]] == [0.3, 0.5, 0.7]
    for row in said["budgets"]:
        assert abs(row["error"]) < 0.03 + 0.5 / 64
        assert row["least"] <= row["kept"] <= row["most"]
    assert "0.300" in run.stderr and said["follow"] == bool(more)


def test_untrained_gates_are_refused_unless_asked_for(
    fork_tool, tiny_yaml, tiny_model, discs, tmp_path
):
    dense = {n: v.contiguous() for n, v in tiny_model(*DENSE).state_dict().items()}
    save_file(dense, tmp_path / "dense.safetensors")
    given = ["--config-file", tiny_yaml, "--weights", tmp_path / "dense.safetensors"]
    given += [discs / "images/val_0.png", "--budgets", 0.5]
    run = fork_tool("budgets.py", *given)
    assert run.returncode == 1 and "no trained weights for" in run.stderr
    run = fork_tool("budgets.py", *given, "--allow-untrained")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_policy_without_shares_is_refused(fork_tool, tiny_yaml, weights, discs):
    run = fork_tool(
        *("budgets.py", "--config-file", tiny_yaml, "--weights", weights),
        *(discs / "images", "--budgets", 1.5),
    )
    assert run.returncode == 1
    assert "--budgets 1.5 must lie in (0, 1]" in run.stderr
