"""The checks that only a device can answer run on a CPU too, and say what a CPU lacks."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from svit_det.benchmark import device_checks
from svit_det.benchmark.device_checks import NO_GPU, ragged_attentions
from svit_det.cli.device_checks import TOY_CASE, main
from svit_det.policies import POLICY_REGISTRY


def test_the_command_at_toy_size(tmp_path, capsys):
    assert main(["--toy", "--repeats", "1", "--device", "cpu", "--output", str(tmp_path)]) is None
    found = json.loads((tmp_path / "device_checks.json").read_text())
    assert set(found["laws"]) == set(POLICY_REGISTRY.names())
    assert all(each < 1e-4 for laws in found["laws"].values() for each in laws.values())
    assert found["graphs"] == found["compiled"] == {"skipped": NO_GPU}
    syncs = found["host_syncs"]
    assert {None} == {waits for counts in syncs.values() for waits in counts.values()}
    assert set(syncs["SViT"]) == {"fixed", "by image"} and set(syncs["EViT"]) == {"fixed"}
    assert set(syncs["ATS"]) == {"by image"}
    assert found["tf32"] == {"matmul": False, "cudnn": False}
    assert found["attention_bfloat16"]["missing"] == {"varlen": NO_GPU}
    assert set(found["attention_float32"]["seconds"]) == {"one_by_one", "padded"}
    assert "packed - masked" in capsys.readouterr().out


def test_ragged_attention_is_that_of_each_image():
    """Three images of 2, 1 and 3 rows: the second attends to itself alone."""
    qkv = torch.randn(3, 6, 2, 4)
    ways = ragged_attentions((2, 1, 3), "cpu")
    outs = [attend(qkv) for attend in ways.values()]
    assert_close(outs[0], outs[1])
    assert_close(outs[0][2], qkv[2, 2])


def test_a_torch_without_attention_over_ragged_rows_is_said(monkeypatch):
    monkeypatch.setattr(device_checks, "on_cuda", lambda _: True)
    half = replace(TOY_CASE, dtype=torch.bfloat16)
    for module, reason in ((None, "has none"), (refusing(), "needs another GPU")):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
        found = device_checks.time_ragged_attention(half, (3, 2), repeats=1)
        assert set(found["seconds"]) == {"one_by_one", "padded"}
        assert found["missing"]["varlen"].endswith(reason)
    found = device_checks.time_ragged_attention(TOY_CASE, (3, 2), repeats=1)
    assert found["missing"] == {"varlen": "works in half precision only"}


def refusing():
    """A module whose attention refuses this GPU."""

    def varlen_attn(*_):
        raise RuntimeError("needs another GPU\nin two lines")

    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = varlen_attn
    return module


def test_waits_are_counted_for_every_kind_of_count(monkeypatch):
    """On a GPU: of the policies that have both, a fixed count and one that the image decides."""
    monkeypatch.setattr(device_checks, "count_host_syncs", lambda run, device: 7)
    found = device_checks.check_host_syncs(TOY_CASE, ["SViT", "Dense"])
    assert found == {"SViT": {"by image": 7, "fixed": 7}, "Dense": {"fixed": 7}}


def test_laws_that_do_not_hold_are_named(tmp_path, monkeypatch):
    def broken(case, policies):
        return {name: {"masked": 0.5, "padded": 0.0, "single": float("nan")} for name in policies}

    monkeypatch.setattr("svit_det.cli.device_checks.check_laws", broken)
    problem = main(["--toy", "--repeats", "1", "--device", "cpu", "--output", str(tmp_path)])
    assert "laws do not hold" in problem and "SViT (masked 5.0e-01), SViT (single nan)" in problem


def test_results_are_collected(tmp_path):
    for name in ("one/results.json", "two/device_checks.json"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(json.dumps({"device": "cpu", "machine": {"cpu": "toy"}}))
    assert main(["--collect", str(tmp_path), "--output", str(tmp_path)]) is None
    (written,) = tmp_path.glob("*_cpu_checks.json")
    assert set(json.loads(written.read_text())["files"]) == {
        "one/results.json",
        "two/device_checks.json",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--repeats", "0"], "--repeats 0"),
        (["--collect", "nowhere"], "--collect nowhere: holds no results.json"),
    ],
)
def test_bad_input(arguments, sentence, tmp_path):
    assert sentence in main([*arguments, "--output", str(tmp_path)])


def test_a_device_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no usable GPU" in main(["--device", "cuda", "--output", str(tmp_path)])


def test_a_broken_result_is_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    problem = main(["--collect", str(tmp_path), "--output", str(tmp_path)])
    assert f"{tmp_path / 'results.json'}: is no JSON file" in problem


def test_what_varies_is_captured_in_a_fixed_room(monkeypatch):
    """On a GPU: a policy whose counts depend on the image is padded, one that knows them is not."""
    seen = {}

    def replayed(trunk, case):
        seen[type(trunk.policy).__name__] = type(trunk.execution.hard).__name__
        return True

    monkeypatch.setattr(device_checks, "_replayed_equal", replayed)
    monkeypatch.setattr(device_checks, "on_cuda", lambda _: True)
    names = ["EViT", "ATS", "SViT"]
    assert device_checks.check_graphs(TOY_CASE, names) == dict.fromkeys(names, True)
    assert seen == {"EViT": "Packed", "ATS": "Padded", "SViT": "Packed"}
