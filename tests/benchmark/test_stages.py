"""Stage times: every stage is there, they add up to the whole, and nothing is left on the model."""

import re

import pytest
import torch
from torch import nn

from svit_det.adapter import ViTAdapter, output_maps
from svit_det.benchmark.report import ALL_BUT_BLOCKS, stages_table
from svit_det.benchmark.stages import REST, find_stages, stage_clock, stage_macs, time_stages
from svit_det.vit import PlainViT
from svit_det.vit.flops import count_macs

OUTER_STAGES = {"embed", "blocks", "prior", "injectors", "extractors", "resizes"}
ADAPTER_STAGES = OUTER_STAGES | {"ffns", "upsampling", "projection"}


@pytest.fixture
def nets(tiny_trunk):
    trunk = tiny_trunk(depth=4, patch_size=8)
    pairs = [[0, 0], [1, 3]]
    adapter = ViTAdapter(trunk=trunk, interactions=pairs, num_heads=3, stem_width=4).eval()
    return {"adapter": nn.Sequential(adapter), "plain": nn.Sequential(PlainViT(trunk=trunk))}


def test_stages_by_network(nets):
    assert set(find_stages(nets["adapter"])) == ADAPTER_STAGES | {"norms"}
    assert set(find_stages(nets["plain"])) == {"embed", "blocks"}


def test_each_call_counts_once(nets, ticks):
    """With a clock of ticks a stage's seconds are its calls: 2 interactions, 2 extras.

    A stage within another one takes a tick of the outer stage before and after it.
    """
    with torch.no_grad(), stage_clock(nets["adapter"], "cpu", ticks()) as spent:
        nets["adapter"](torch.rand(1, 3, 16, 16))
    calls = {"embed": 1, "blocks": 2, "prior": 1, "injectors": 2}
    calls |= {"extractors": 4 * 2, "ffns": 4, "resizes": 3, "upsampling": 1, "projection": 1}
    assert spent == calls


def test_norms_that_are_not_folded_have_a_stage(nets, ticks):
    """With a gradient the layers of the output maps run as modules, and so do the four norms."""
    with stage_clock(nets["adapter"], "cpu", ticks()) as spent:
        nets["adapter"](torch.rand(1, 3, 16, 16))
    assert {stage: spent[stage] for stage in ("norms", "upsampling", "projection")} == {
        "norms": 4,
        "upsampling": 1,
        "projection": 1,
    }
    assert spent["resizes"] == 1 + 6


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
        # 34 looks at the clock inside, one at the end: the whole is 35 ticks.
        assert [sum(call) for call in zip(*stages.values())] == [35] * 6


def test_the_model_is_as_before(nets):
    before = {name: dict(vars(module)) for name, module in nets["adapter"].named_modules()}
    functions = dict(vars(output_maps))
    with pytest.raises(RuntimeError), stage_clock(nets["adapter"], "cpu"):
        assert dict(vars(output_maps)) != functions
        raise RuntimeError("in between")
    assert dict(vars(output_maps)) == functions
    after = {name: dict(vars(module)) for name, module in nets["adapter"].named_modules()}
    assert {name: set(each) for name, each in after.items()} == {
        name: set(each) for name, each in before.items()
    }


@pytest.mark.parametrize("kind", ["adapter", "plain"])
def test_the_arithmetic_of_all_stages_is_that_of_the_whole(nets, kind):
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        whole = count_macs(lambda: nets[kind](images)).total
    macs = stage_macs(nets[kind], [images])
    assert sum(macs.values()) == whole
    # Four tokens in four blocks: 4 C^2 each in the attention and as many in an MLP of twice the
    # width, and the attention between them.
    assert macs["blocks"] == 4 * (4 * 8 * 24**2 + 2 * 4 * 4 * 24)


def test_the_arithmetic_of_a_stage_is_the_mean_over_the_inputs(nets):
    small, large = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 48)
    one, other, both = (
        stage_macs(nets["plain"], each) for each in ([small], [large], [small, large])
    )
    assert other["embed"] == 3 * one["embed"]
    assert both == {stage: (one[stage] + other[stage]) / 2 for stage in one}


def test_the_arithmetic_of_the_side_branchs_layers_by_hand(nets):
    """Grids of 4 x 4, 2 x 2 and one cell; the finest map has 8 x 8, and the stem 4 channels."""
    macs = stage_macs(nets["adapter"], [torch.rand(1, 3, 16, 16)])
    hidden, cells = 24 // 4, 16 + 4 + 1
    assert macs["ffns"] == 4 * cells * (2 * 24 * hidden + 9 * hidden)
    assert macs["upsampling"] == 16 * 24 * 4 * 24
    assert macs["projection"] == 64 * 4 * 24
    assert macs["resizes"] == 0


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
