"""Stage times: every stage is there, they add up to the whole, and nothing is left on the model."""

import re

import pytest
import torch
from torch import nn

from svit_det.adapter import ViTAdapter
from svit_det.benchmark.report import ALL_BUT_BLOCKS, stages_table
from svit_det.benchmark.stages import REST, find_stages, stage_clock, stage_macs, time_stages
from svit_det.vit import PlainViT
from svit_det.vit.flops import count_macs

ADAPTER_STAGES = {"embed", "blocks", "prior", "injectors", "extractors", "resizes"}


@pytest.fixture
def nets(tiny_trunk):
    trunk = tiny_trunk(depth=4, patch_size=8)
    pairs = [[0, 0], [1, 3]]
    adapter = ViTAdapter(trunk=trunk, interactions=pairs, num_heads=3, stem_width=4).eval()
    return {"adapter": nn.Sequential(adapter), "plain": nn.Sequential(PlainViT(trunk=trunk))}


def test_stages_by_network(nets):
    assert set(find_stages(nets["adapter"])) == ADAPTER_STAGES
    assert set(find_stages(nets["plain"])) == {"embed", "blocks"}


def test_each_call_counts_once(nets, ticks):
    """With a clock of ticks a stage's seconds are its calls: 2 interactions, 2 extras."""
    with torch.no_grad(), stage_clock(nets["adapter"], "cpu", ticks()) as spent:
        nets["adapter"](torch.rand(1, 3, 16, 16))
    calls = {"embed": 1, "blocks": 2, "prior": 1, "injectors": 2, "extractors": 4, "resizes": 1}
    assert spent == calls


def test_stages_and_rest_are_the_whole(nets, ticks):
    images = [torch.rand(1, 3, 16, 16)] * 2
    with torch.no_grad():
        found = time_stages(
            {"one": nets["adapter"], "two": nets["adapter"]},
            images,
            device="cpu",
            repeats=3,
            warmup=1,
            clock=ticks(),
        )
    for stages in found.values():
        assert set(stages) == ADAPTER_STAGES | {REST}
        assert all(len(seconds) == 6 for seconds in stages.values())
        # 22 looks at the clock inside, one at the end: the whole is 23 ticks, 11 of them in stages.
        assert [sum(call) for call in zip(*stages.values())] == [23] * 6


def test_the_model_is_as_before(nets):
    before = {name: dict(vars(module)) for name, module in nets["adapter"].named_modules()}
    with pytest.raises(RuntimeError), stage_clock(nets["adapter"], "cpu"):
        raise RuntimeError("in between")
    after = {name: dict(vars(module)) for name, module in nets["adapter"].named_modules()}
    assert {name: set(each) for name, each in after.items()} == {
        name: set(each) for name, each in before.items()
    }


@pytest.mark.parametrize("kind", ["adapter", "plain"])
def test_the_arithmetic_of_all_stages_is_that_of_the_whole(nets, kind):
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        whole = count_macs(lambda: nets[kind](images)).total
    macs = stage_macs(nets[kind], images)
    assert sum(macs.values()) == whole
    # Four tokens in four blocks: 4 C^2 each in the attention and as many in an MLP of twice the
    # width, and the attention between them.
    assert macs["blocks"] == 4 * (4 * 8 * 24**2 + 2 * 4 * 4 * 24)


def test_rates_by_hand():
    """Blocks: 40 in 2 s; the side branch: 10 in 1 s, half the rate; a resize has none."""
    row = {
        "batch_size": 1,
        "stage_seconds_per_batch": {
            arm: {"blocks": [2.0], "prior": [1.0], "resizes": [1.0]} for arm in ("dense", "pruned")
        },
        "stage_macs_per_batch": {
            "pruned": {"blocks": 40e9, "prior": 10e9, "resizes": 0},
        },
    }
    cells = [re.split(r"  +", line.strip()) for line in stages_table([row]).splitlines()[2:]]
    assert {stage: rate for _, stage, _, _, *rate in cells} == {
        "blocks": ["40.00", "100"],
        "prior": ["10.00", "50"],
        "resizes": ["-", "-"],
        ALL_BUT_BLOCKS: ["10.00", "25"],
    }
