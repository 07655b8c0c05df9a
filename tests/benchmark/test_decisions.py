"""What deciding costs, block by block, with a clock that moves only when something is computed."""

import pytest
import torch

from svit_det.benchmark import arms
from svit_det.benchmark.decisions import keeps_everyone, time_decisions
from svit_det.benchmark.report import decisions_table
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.policies.gating import TokenGate
from svit_det.vit.layers import Attention
from svit_det.vit.view import BlockInProgress

DEPTH = 3
SLOW = {
    (Attention, "class_row"): 1,
    (TokenGate, "forward"): 10,
    (Attention, "project"): 100,
    (BlockInProgress, "attended"): 1000,
}
"""The seconds that a call takes; all else takes none."""


@pytest.fixture
def clock(monkeypatch):
    """Shows the time that the SLOW methods took."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()

    def slowed(run, seconds):
        def run_slowly(*args, **kwargs):
            clock.now += seconds
            return run(*args, **kwargs)

        return run_slowly

    for (owner, name), seconds in SLOW.items():
        monkeypatch.setattr(owner, name, slowed(getattr(owner, name), seconds))
    return clock


def built(name, **config):
    """A policy for a trunk of three blocks."""
    shape, kind = TrunkShape(24, DEPTH, 3), POLICY_REGISTRY.get(name)
    return build_policy(name, shape=shape, config=kind.Config(**config))


BLOCKS = {"layers": (1, 2), "keep_ratios": (0.7, 0.5)}


@pytest.mark.parametrize(
    ("name", "config", "seconds"),
    [
        ("SViT", {"mode": "quota", **BLOCKS}, [0, 10, 10]),
        ("EViT", BLOCKS, [0, 1, 1]),
        # It looks before there are queries: the class token's is projected for it alone.
        ("ATS", BLOCKS, [0, 101, 101]),
        ("EvoViT", BLOCKS, [1, 1, 0]),  # the scores that a later choice needs
        ("AttentionProbe", {}, [1, 1, 1]),
        ("Dense", {}, [0, 0, 0]),
    ],
)
def test_a_decision_is_what_its_block_would_not_have_computed(
    tiny_trunk, images, clock, name, config, seconds
):
    """Neither keys and values, however early, nor writing rows back after the attention."""
    policy = built(name, **config)
    trunk = tiny_trunk(policy, depth=DEPTH)
    models = arms.policy_arms(trunk)
    states = [trunk.embed(images(1, (5, 7)))] * 2
    classes = [dict(vars(owner)) for owner, _ in SLOW]
    before = set(vars(policy))
    with torch.no_grad():
        found = time_decisions(
            models["dense"], models["pruned"], states, device="cpu", repeats=3, clock=clock
        )
    assert found["dense_block"] == [100] * 6
    assert found["decision_by_block"] == [[each] * 6 for each in seconds]
    # Nothing stays behind.
    assert set(vars(policy)) == before
    assert [dict(vars(owner)) for owner, _ in SLOW] == classes


def test_every_hook_is_timed(tiny_trunk, images, ticks):
    """With a clock of ticks, a call that looks at nothing takes one."""
    trunk = tiny_trunk(built("SViT", mode="quota", **BLOCKS), depth=DEPTH)
    dense = arms.policy_arms(trunk)["dense"]
    with torch.no_grad():
        found = time_decisions(
            dense, trunk, [trunk.embed(images(1))], device="cpu", repeats=2, clock=ticks()
        )
    assert found["decision_by_block"] == [[4, 4]] * DEPTH


def test_which_policies_are_the_dense_model():
    kinds = {name: POLICY_REGISTRY.get(name) for name in POLICY_REGISTRY.names()}
    dense = {name for name, kind in kinds.items() if keeps_everyone(kind)}
    assert "Dense" in dense
    assert not dense & {"SViT", "EViT", "ATS", "EvoViT", "AttentionProbe"}


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


@pytest.mark.parametrize("name", ["ATS", "EViT"])
def test_arms_of_policies_with_a_class_token(tiny_trunk, images, name):
    """Dense has the class token too; ATS, which always skips a token, has no arm that does not."""
    trunk = tiny_trunk(built(name, **BLOCKS), depth=DEPTH)
    models = arms.policy_arms(trunk)
    assert ("keep_all" in models) == (name == "EViT")
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
