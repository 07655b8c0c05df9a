"""The checks that only a device can answer run on a CPU too, and say what a CPU lacks."""

import inspect
import json
import sys
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from svit_det.benchmark import device_checks
from svit_det.benchmark.arms import count_host_syncs
from svit_det.benchmark.device_checks import NO_GPU, ragged_attentions
from svit_det.cli.device_checks import COMPILED, TOY_CASE, main, report
from svit_det.policies import POLICY_REGISTRY, TrunkShape


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


def test_attention_over_ragged_rows_is_called_as_torch_has_it(monkeypatch):
    """On a GPU: instead of torch's kernel, one that attends image by image within the bounds."""
    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)

    def varlen_attn(*given):
        called = signature.bind(*given).arguments
        assert called["cu_seq_q"] is called["cu_seq_k"] and called["max_q"] == called["max_k"] == 3
        places = called["cu_seq_q"].tolist()
        rows = torch.stack([called[name] for name in ("query", "key", "value")])
        lengths = [stop - start for start, stop in pairwise(places)]
        return ragged_attentions(lengths, "cpu")["one_by_one"](rows)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    with monkeypatch.context() as patch:
        patch.setattr(device_checks, "on_cuda", lambda _: True)
        ways = ragged_attentions((3, 1, 2), "cpu")
    monkeypatch.setattr(device_checks, "ragged_attentions", lambda lengths, device: ways)
    half = replace(TOY_CASE, dtype=torch.bfloat16)
    found = device_checks.time_ragged_attention(half, (3, 1, 2), repeats=1)
    assert found["missing"] == {} and found["difference"]["varlen"] == 0
    assert set(found["seconds"]) == {"one_by_one", "padded", "varlen"}


class FakeCuda:
    """torch.cuda's switch that warns of waits."""

    def __init__(self, monkeypatch):
        self.mode, self.asked = "default", []
        monkeypatch.setattr(torch.cuda, "synchronize", self.asked.append)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set_mode)

    def set_mode(self, mode):
        self.mode = mode

    def wait(self):
        if self.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=2)


def test_waits_are_what_torch_warns_of(monkeypatch):
    """On a GPU: three waits at the same line, and a warning of another kind."""
    cuda = FakeCuda(monkeypatch)

    def run():
        for _ in range(3):
            cuda.wait()
        warnings.warn("something else", UserWarning, stacklevel=2)

    assert count_host_syncs(run, "cuda") == 3
    assert cuda.mode == "default" and cuda.asked == ["cuda"]


def test_a_pass_that_fails_leaves_the_switch_as_it_was(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        count_host_syncs(lambda: 1 / 0, "cuda")
    assert cuda.mode == "default"


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


# ------------------------------------------------------------------ graphs, on a fake GPU


SMALL = replace(TOY_CASE, shape=TrunkShape(24, 2, 3))


class FakeGraph:
    """A captured pass. `replay` computes it anew, in the same tensors, as often as it is right."""

    def __init__(self, right=2):
        self.capturing, self.passes, self.right = False, [], right

    @contextmanager
    def capture(self, graph):
        assert graph is self
        self.capturing = True
        yield
        self.capturing = False

    def run(self, trunk, images):
        state = trunk(images)
        patches = trunk.read_map(state)
        self.passes.append((self.capturing, images))
        if self.capturing:
            self.trunk, self.given, self.captured = trunk, images, patches
        return patches, state

    def replay(self):
        if self.right:
            self.captured.copy_(self.trunk.read_map(self.trunk(self.given)))
        self.right -= bool(self.right)


@pytest.fixture
def fake_graph(monkeypatch):
    """Factory: a `FakeGraph` in the place of CUDA's graphs and streams."""

    def make(**options):
        graph, stream = FakeGraph(**options), SimpleNamespace(wait_stream=lambda other: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        monkeypatch.setattr(torch.cuda, "graph", graph.capture)
        monkeypatch.setattr(device_checks, "run_trunk", graph.run)
        return graph

    return make


@pytest.mark.parametrize(("right", "equal"), [(2, True), (1, False), (0, False)])
@torch.no_grad()
def test_a_replay_is_compared_with_eager_passes_on_two_other_inputs(fake_graph, right, equal):
    graph = fake_graph(right=right)
    assert device_checks._replayed_equal(SMALL.trunk("Dense"), SMALL) is equal
    captures = [capturing for capturing, _ in graph.passes]
    assert captures[:4] == [False] * 3 + [True] and not any(captures[4:])
    assert torch.equal(graph.passes[4][1], SMALL.images(2))


def test_what_cannot_be_captured_is_said(monkeypatch):
    def refused(trunk, case):
        raise RuntimeError("operation not permitted\nin two lines")

    monkeypatch.setattr(device_checks, "_replayed_equal", refused)
    monkeypatch.setattr(device_checks, "on_cuda", lambda _: True)
    found = device_checks.check_graphs(SMALL, ["Dense"])
    assert found == {"Dense": "cannot be captured: operation not permitted"}


def test_a_compiled_trunk_takes_turns_with_the_eager_one(capsys):
    """With a backend that generates no code, because code for a CPU takes a minute."""
    found = device_checks.time_compiled(SMALL, ["Dense"], repeats=2, mode=None, backend="eager")
    seconds = found["Dense"]["seconds"]
    assert {name: len(each) for name, each in seconds.items()} == {"eager": 2, "compiled": 2}
    ratios = [one / other for one, other in zip(seconds["eager"], seconds["compiled"])]
    assert found["Dense"]["ratio"]["median"] == pytest.approx(sum(ratios) / 2)
    timed = {"lengths": [1], "dtype": "float32", "seconds": {}, "missing": {}}
    attention = {f"attention_{dtype}": timed for dtype in ("float32", "bfloat16")}
    report({"laws": {}, "host_syncs": {}, "graphs": {}, **attention, "compiled": found})
    assert "eager / max-autotune" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("name", COMPILED)
def test_every_timed_policy_compiles(name):
    found = device_checks.time_compiled(TOY_CASE, [name], repeats=1, mode=None, backend="aot_eager")
    assert found[name]["ratio"]["median"] > 0
