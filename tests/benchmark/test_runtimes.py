"""tools/benchmark.py --runtime: exported arms beside eager ones, and an older checkout's dense."""

import shutil
import sys
from pathlib import Path

import pytest

from svit_det.benchmark.runtimes import arm_name, runtimes_table, summarise_arms
from svit_det.benchmark.timing import Timings

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("MODEL.VIT.DEPTH", "3", "MODEL.TOKEN_POLICY.LAYERS", "[1,2]"),
    *("MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7,0.5]"),
)
GRID = ("--tokens", "4", "6")


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """Another checkout of the same code."""
    folder = tmp_path_factory.mktemp("older")
    for name in ("svit_det", "configs"):
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


# ------------------------------------------------------------------ whole runs


def arms_of(row):
    return {arm_name(arm["runtime"], arm["budget"]): arm for arm in row["arms"]}


@pytest.mark.long
def test_both_budgets_in_a_runtime_beside_an_older_checkout(tiny, older):
    ran = tiny(
        *("--parts", "blocks", "--runtime", "onnxruntime", *GRID, "--against", str(older)),
        overrides=SMALL,
    )
    (row,) = ran.results["runtimes"]
    arms = arms_of(row)
    budgets = ("dense", "static", "dynamic")
    assert set(arms) == {arm_name(r, b) for r in ("eager", "onnxruntime") for b in budgets}
    seconds = row["raw_seconds_per_image"]
    assert set(seconds) == {*arms, "old eager dense"}
    for name, arm in arms.items():
        ((own,), (dense,)) = seconds[name], seconds[arm_name(arm["runtime"], "dense")]
        assert arm["own_dense_over_this"]["median"] == dense / own
        assert arm["old_eager_dense_over_this"]["median"] == seconds["old eager dense"][0] / own
        assert (arm["parity"] is None) == (arm["runtime"] == "eager")
    counts = arms["onnxruntime static"]["parity"]["kept_tokens_per_block"]
    assert counts == [24, 17, 12]
    assert arms["eager static"]["kept_share"] == pytest.approx(sum(counts) / 72)
    assert arms["eager dense"]["kept_share"] == 1 and arms["eager dense"]["bound"] == 1
    assert arms["eager static"]["bound"] > 1
    for budget in budgets:
        parity = arms[arm_name("onnxruntime", budget)]["parity"]
        assert parity["decisions_alike"] == 1 and parity["largest_difference"] <= 1e-4
    assert row["against"] == {"largest_difference": {"dense": 0}, "agrees": True}
    assert ran.results["rows"] == [] and "static / this" in ran.printed


def test_the_bound_of_a_count_by_image_is_that_of_every_image(tiny):
    """As in the benchmark without --runtime, where every input's bound is in the row."""
    options = ("--parts", "backbone", "--images", "2", *GRID, "--overwrite")
    overrides = ("MODEL.TOKEN_POLICY.NAME", "IARED2")
    first = tiny(*options, "--batch-sizes", "1", overrides=overrides).results["rows"][0]
    assert first["bound_by_input"][0] != first["bound_by_input"][1]
    (row,) = tiny(*options, "--runtime", "eager", overrides=overrides).results["runtimes"]
    assert arms_of(row)["eager dynamic"]["bound"] == first["bound"]


@pytest.mark.long
@pytest.mark.parametrize("part", ["backbone", "detector"])
def test_larger_parts_in_every_runtime(tiny, older, part):
    names = ["eager", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16"]
    ran = tiny(
        *("--parts", part, "--runtime", *names, *GRID, "--against", str(older)), overrides=SMALL
    )
    (row,) = ran.results["runtimes"]
    arms = arms_of(row)
    assert len(arms) == len(names) * 3
    for name in ("onnxruntime", "openvino"):
        for budget in ("dense", "static", "dynamic"):
            parity = arms[arm_name(name, budget)]["parity"]
            assert parity["decisions_alike"] == 1 and parity["largest_difference"] <= 1e-3
    assert row["against"]["agrees"]


@pytest.mark.long
def test_a_policy_with_one_budget(tiny):
    ran = tiny(
        *("--parts", "blocks", "--runtime", "onnxruntime", *GRID),
        overrides=(*SMALL, "MODEL.TOKEN_POLICY.NAME", "ATS"),
    )
    (row,) = ran.results["runtimes"]
    assert {arm["budget"] for arm in row["arms"]} == {"dense", "dynamic"}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tensorrt"], "--runtime tensorrt: choose among eager, onnxruntime"),
        (["eager", "eager"], "names one twice"),
        (["eager", "--parts", "training"], "--runtime runs blocks, backbone, detector"),
        (["eager", "--stages"], "--stages is measured in eager torch alone"),
        (["eager", "--batch-sizes", "2"], "--batch-sizes 1"),
        (["eager", "--dtype", "bfloat16"], "leave --device and --dtype out"),
    ],
)
def test_what_runtimes_do_not_measure(benchmark, arguments, complaint):
    ran = benchmark("--runtime", *arguments)
    assert complaint in ran.problem and ran.problem.endswith(".") and "\n" not in ran.problem


@pytest.mark.parametrize(
    ("runtime", "module"), [("onnxruntime", "onnxscript"), ("openvino", "openvino")]
)
def test_a_missing_runtime_is_named(benchmark, monkeypatch, runtime, module):
    monkeypatch.setitem(sys.modules, module, None)
    ran = benchmark("--runtime", runtime)
    assert ran.problem.startswith(f"--runtime {runtime}: ")
    assert ran.problem.endswith(f"pip install {module}.")


def test_a_policy_that_does_not_export_says_so(tiny, monkeypatch):
    from svit_det.policies.svit import SViT

    def asks_the_device(self, view, state):
        if view.layer == 1 and state.tokens.sum().item() > 0:
            return before(self, view, state)
        return before(self, view, state)

    before = SViT.before_block
    monkeypatch.setattr(SViT, "before_block", asks_the_device)
    ran = tiny("--parts", "blocks", "--runtime", "onnxruntime", *GRID, overrides=SMALL)
    assert ran.problem.startswith("SViT does not export as one graph: ")


# ------------------------------------------------------------------ the figures


def test_ratios_are_above_one_where_an_arm_is_faster():
    arms = [("eager", "dense"), ("x", "dense"), ("x", "static"), ("x", "dynamic")]
    timings = Timings(
        {
            "eager dense": [8.0],
            "old eager dense": [16.0],
            "x dense": [4.0],
            "x static": [2.0],
            "x dynamic": [2.5],
        }
    )
    found = summarise_arms(
        timings,
        arms,
        macs=[
            {"dense": 30, "static": 15, "dynamic": 24},
            {"dense": 30, "static": 15, "dynamic": 20},
            {"dense": 30, "static": 15, "dynamic": 10},
        ],
        kept={"dense": 1.0, "static": 0.5, "dynamic": 0.6},
        parity={"x static": {"said": "the same tokens kept"}},
    )
    dynamic = found[3]
    assert dynamic["own_dense_over_this"]["median"] == 1.6 and dynamic["bound"] == 1.5
    assert dynamic["eager_dense_over_this"]["median"] == 3.2
    assert dynamic["old_eager_dense_over_this"]["median"] == 6.4
    assert dynamic["static_over_this"]["median"] == 0.8
    assert found[0]["static_over_this"] is None
    row = {"part": "blocks", "batch_size": 1, "policy": "P", "token_grid": [4, 6], "arms": found}
    lines = runtimes_table([row]).splitlines()
    assert len(lines) == 6 and "x0.800" in lines[5] and "x0.800" not in lines[4]
    assert "the same tokens kept" in lines[4]
