"""SViT: its modes and its loss by hand.

B images, N patch tokens, G gates.
"""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import TaskLosses
from svit_det.policies.svit import MODES
from svit_det.tokens import Selection, everyone


@pytest.fixture
def margins_are():
    """Factory: make a policy's gates return typed-out margins, whatever the tokens."""

    def replace(policy, *margins):
        for gate, margin in zip(policy.gates.values(), margins, strict=True):
            gate.forward = partial(lambda margin, tokens: margin, torch.tensor(margin))
        return policy

    return replace


@pytest.fixture
def decide(a_state, a_view):
    """What block `layer` decides, by default on one image of four tokens."""

    def selection(policy, layer=1, state=None, candidates=None):
        state = a_state() if state is None else state
        return policy.before_block(a_view(layer, candidates=candidates), state)[1]

    return selection


@pytest.fixture
def kept(decide):
    """The tokens that block `layer` keeps, as 0 and 1."""
    return lambda *args, **options: decide(*args, **options).keep.int().tolist()


# ------------------------------------------------------------------ deciding


def test_blocks_without_a_gate_keep_every_token(svit, a_state, a_view):
    state = a_state()
    for layer in (0, 2):
        after, selection = svit().before_block(a_view(layer), state)
        assert after is state
        assert selection.total == 4
        assert selection.gate is None


def test_each_block_has_its_own_gate(svit, margins_are, kept):
    policy = margins_are(svit(mode="argmax"), [[1.0, -1, 1, -1]], [[-1.0, -1, -1, 1]])
    assert kept(policy, layer=1) == [[1, 0, 1, 0]]
    assert kept(policy, layer=3) == [[0, 0, 0, 1]]


def test_the_order_of_the_layers_is_that_of_the_ratios(svit, margins_are, kept):
    policy = margins_are(
        svit(layers=(3, 1), keep_ratios=(0.25, 0.75), mode="quota"),
        [[4.0, 3, 2, 1]],
        [[1.0, 2, 3, 4]],
    )
    assert kept(policy, layer=3) == [[1, 0, 0, 0]]
    assert kept(policy, layer=1) == [[0, 1, 1, 1]]


def test_argmax_skips_a_tie(svit, margins_are, kept):
    policy = margins_are(svit(mode="argmax"), [[0.0, 1e-6, -1e-6, 0.0]], [[0.0] * 4])
    assert kept(policy) == [[0, 1, 0, 0]]
    assert kept(policy, layer=3) == [[0, 0, 0, 0]]


def test_threshold_skips_a_tie(svit, margins_are, kept):
    policy = margins_are(svit(), [[0.5, 0.75, 0.25, 2.0]], [[0.0] * 4])
    policy.budget.thresholds[0] = 0.5
    assert kept(policy) == [[0, 1, 0, 1]]


def test_untrained_thresholds_keep_the_more_probable(svit, margins_are, kept):
    policy = margins_are(svit(), [[0.5, -0.75, 0.0, 2.0]], [[0.0] * 4])
    assert kept(policy) == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.7, 7), (0.49, 5), (0.343, 3), (0.05, 1), (0.01, 1), (1.0, 10)]
)
def test_quota_counts_are_exact(svit, decide, a_state, ratio, count):
    policy = svit(layers=(1,), keep_ratios=(ratio,), mode="quota")
    for num_extra in (0, 1):
        selection = decide(policy, state=a_state(10, num_extra, num_images=3))
        assert selection.keep.sum(dim=1).tolist() == [count] * 3
        assert selection.total == count + num_extra


def test_quota_promises_no_total_where_images_differ_in_extra_tokens(svit, decide, a_state):
    present = torch.tensor([[True, True], [True, False]])
    selection = decide(svit(mode="quota"), state=a_state(10, 2, num_images=2, present=present))
    assert selection.total is None
    assert selection.keep.sum(dim=1).tolist() == [7, 7]


def test_quota_takes_the_highest_margins_even_among_ties(svit, margins_are, kept):
    policy = svit(keep_ratios=(0.5, 0.5), mode="quota")
    margins_are(policy, [[-3.0, -1, -2, -4]], [[7.0, 7, 7, 7]])
    assert kept(policy) == [[0, 1, 1, 0]]
    assert kept(policy, layer=3) == [[1, 1, 0, 0]]


def test_a_full_quota_keeps_every_token_without_a_look(svit, decide):
    policy = svit(keep_ratios=(1.0, 0.5), mode="quota")
    assert decide(policy).total == 4
    assert decide(policy).score is None
    assert decide(policy, layer=3).total == 2


def test_samples_depend_on_the_seed_and_the_gate_but_not_on_the_image(
    svit, margins_are, kept, a_state
):
    zeros = [[0.0] * 64] * 2
    draws = {}
    for seed in (0, 1):
        policy = margins_are(svit(mode="sample", sample_seed=seed), zeros, zeros)
        for layer in (1, 3):
            keep = kept(policy, layer, a_state(64, num_images=2))
            assert keep[0] == keep[1]
            assert 16 < sum(keep[0]) < 48
            draws[seed, layer] = tuple(keep[0])
    assert len(set(draws.values())) == 4


def test_training_draws_anew_and_hands_out_a_gate(svit, decide, a_state):
    policy = svit().train()
    state = a_state(40, num_images=2)
    first, second = (decide(policy, state=state) for _ in range(2))
    assert not torch.equal(first.keep, second.keep)
    assert torch.equal(first.gate, first.keep.float())
    assert first.gate.requires_grad
    assert first.total is None
    assert decide(policy.eval(), state=state).gate is None


def test_training_pays_no_heed_to_the_knob(svit, decide, a_state):
    policy = svit(test_keep_ratio=1.0).train()
    selection = decide(policy, state=a_state(40, num_images=2))
    assert selection.total is None
    assert not selection.keep.all()
    assert policy.schedule.shares == (0.7, 0.5)


@pytest.mark.parametrize(
    ("mode", "knob"),
    [(mode, None) for mode in (*MODES, "training")]
    + [(mode, 1.0) for mode in ("threshold", "quota", "training")],
)
def test_only_candidates_are_chosen(svit, decide, a_state, mode, knob):
    policy = svit(
        mode="threshold" if mode == "training" else mode,
        keep_ratios=(0.8, 1.0),
        test_keep_ratio=knob,
    )
    policy.train(mode == "training")
    candidates = torch.rand(2, 40) < 0.5
    state = a_state(40, num_images=2)
    for layer in (1, 3):
        selection = decide(policy, layer, state, candidates)
        assert selection.total is None
        assert not (selection.keep & ~candidates).any()
        assert selection.keep.any()
        if selection.gate is not None:
            assert not selection.gate[~candidates].any()


@pytest.mark.parametrize("mode", MODES)
def test_where_there_are_no_candidates_no_token_is_chosen(svit, kept, a_state, mode):
    none = torch.zeros(2, 6, dtype=torch.bool)
    assert kept(svit(mode=mode), 1, a_state(6, num_images=2), none) == [[0] * 6] * 2


def test_decisions_cost_multiply_adds_where_they_are_made(svit, decide, a_state):
    def spent(policy):
        return {layer: decide(policy, layer, a_state(10)).macs for layer in range(4)}

    macs = 10 * (24 * 6 + 6 * 2)
    assert spent(svit()) == {0: 0, 1: macs, 2: 0, 3: macs}
    assert spent(svit().train()) == {0: 0, 1: macs, 2: 0, 3: macs}
    assert spent(svit(test_keep_ratio=1.0)) == dict.fromkeys(range(4), 0)
    quota = svit(mode="quota", keep_ratios=(1.0, 0.5))
    assert spent(quota) == {0: 0, 1: 0, 2: 0, 3: macs}


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_deterministic_in_every_mode(
    make_policy, tiny_trunk, images, same_history, mode
):
    trunk = tiny_trunk(make_policy("SViT", mode=mode))
    batch = images(2, (5, 7))
    with torch.no_grad():
        first = trunk(batch)
        torch.randn(7)  # other people's draws do not matter
        second, alone = trunk(batch), trunk(batch[1:])
    assert torch.equal(first.patches, second.patches)
    same_history(first.history, second.history)
    assert not all(record.selection.keep.all() for record in first.history)
    assert_close(first.patches[1:], alone.patches, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ the loss


def kept_of_ten(*counts):
    keep = torch.arange(10) < torch.tensor(counts).unsqueeze(1)
    return Selection(keep=keep, gate=keep.float())


@pytest.mark.parametrize(("per_image", "expected"), [(False, 0.1), (True, 0.12)])
def test_the_policy_weighs_the_loss_and_looks_at_its_own_blocks(
    svit, a_state, a_pass, no_task, per_image, expected
):
    # Blocks 1 and 3: 0.1^2 and 0.2^2, mean 0.025, times 4. Per image: 0.02 and 0.04.
    policy = svit(ratio_per_image=per_image)
    whole = everyone(a_state(10, num_images=2))
    record = a_pass(whole, kept_of_ten(7, 5), whole, kept_of_ten(3, 3))
    losses = policy.losses(record, no_task)
    assert list(losses) == ["loss_keep_ratio"]
    assert losses["loss_keep_ratio"].item() == pytest.approx(expected)


def test_another_loss_weight(svit, a_pass, no_task):
    policy = svit(layers=(0,), keep_ratios=(0.7,), loss_weight=2.5)
    losses = policy.losses(a_pass(kept_of_ten(7, 5)), no_task)
    assert losses["loss_keep_ratio"].item() == pytest.approx(0.025)


def test_the_mean_over_processes_is_the_tasks(svit, a_pass):
    """Here of two processes, of which the other one keeps all: (0.8 - 0.7)^2, times 4."""
    policy = svit(layers=(0,), keep_ratios=(0.7,))
    task = TaskLosses({}, mean=lambda share: (share + 1) / 2)
    losses = policy.losses(a_pass(kept_of_ten(7, 5)), task)
    assert losses["loss_keep_ratio"].item() == pytest.approx(0.04)
