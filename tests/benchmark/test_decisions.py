"""What deciding costs, block by block, with a clock that counts its looks."""

import pytest
import torch

from svit_det.benchmark import arms
from svit_det.benchmark.decisions import time_decisions
from svit_det.benchmark.report import decisions_table
from svit_det.policies import ATS, EViT, EvoViT, SViT

BLOCKS = {"layers": [1, 2], "keep_ratios": [0.7, 0.5]}


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        # before_block and after_block everywhere; what comes on top where something is decided.
        (SViT(embed_dim=24, depth=3, mode="quota", **BLOCKS), [2, 2, 2]),
        (EViT(embed_dim=24, depth=3, **BLOCKS), [2, 4, 4]),  # class row, after_attention
        (ATS(depth=3, **BLOCKS), [2, 4, 4]),  # class row, before_attention
        (EvoViT(embed_dim=24, depth=3, **BLOCKS), [4, 4, 2]),  # the scores that a choice needs
    ],
    ids=["SViT", "EViT", "ATS", "EvoViT"],
)
def test_every_part_of_a_decision_is_booked_under_its_block(
    tiny_trunk, images, ticks, policy, calls
):
    trunk = tiny_trunk(policy, depth=3)
    models = arms.policy_arms(trunk)
    states = [trunk.embed(images(1, (5, 7)))] * 2
    before = set(vars(policy))
    with torch.no_grad():
        found = time_decisions(
            models["dense"], models["pruned"], states, device="cpu", repeats=3, clock=ticks()
        )
    assert len(found["dense_block"]) == 6
    assert found["dense_block"] == [pytest.approx(1 / 3)] * 6
    assert [set(seconds) for seconds in found["decision_by_block"]] == [{float(n)} for n in calls]
    assert set(vars(policy)) == before


def test_the_table_leaves_out_blocks_that_decide_nothing():
    found = {
        "dense_block": [0.1, 0.1],
        "decision_by_block": [[1e-6, 1e-6], [0.004, 0.004], [0.002, 0.003]],
    }
    text = decisions_table([{"batch_size": 1, "decision_seconds_per_batch": found}])
    lines = [line.split() for line in text.splitlines()[2:]]
    assert [line[1] for line in lines] == ["1", "2"]
    assert lines[0][-2:] == ["4.00", "%"] and lines[1][-2:] == ["2.50", "%"]
    assert decisions_table([{"batch_size": 1}]) == ""


@pytest.mark.parametrize("policy", [ATS(depth=3, **BLOCKS), EViT(embed_dim=24, depth=3, **BLOCKS)])
def test_arms_of_policies_with_a_class_token(tiny_trunk, images, policy):
    """Dense has the class token too; ATS, which always drops someone, has no arm that does not."""
    trunk = tiny_trunk(policy, depth=3)
    models = arms.policy_arms(trunk)
    assert ("keep_all" in models) == isinstance(policy, EViT)
    state = models["dense"].embed(images(1))
    assert state.extra.shape[1] == 1
    with torch.no_grad():
        dense = arms.run_stack(models["dense"])(state)
        pruned = arms.run_stack(models["pruned"])(state)
    assert not torch.equal(dense.patches, pruned.patches)
    if "keep_all" in models:
        with torch.no_grad():
            everyone = arms.run_stack(models["keep_all"])(state)
        assert torch.equal(everyone.patches, dense.patches)
