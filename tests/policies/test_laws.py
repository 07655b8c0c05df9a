"""The laws: what must hold under every policy. They run over every registered policy by themselves.

Twelve blocks of 24 channels, tokens of 4 x 4 pixels; B images, N patch tokens. What a policy breaks
by design it says in a class attribute (`preserves`), never here.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies.svit import MODES
from svit_det.tokens import TokenTrace

DEPTH = 12
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def took_part(selection):
    """(B, N) bool: who was in any part of the block."""
    return selection.keep if selection.entered is None else selection.entered | selection.keep


def assert_same_trace(trace, other):
    assert len(trace) == len(other)
    for one, two in zip(trace, other):
        assert torch.equal(one.keep, two.keep)
        assert torch.equal(took_part(one), took_part(two))


def losses_of(trunk, state):
    """A task loss that every token matters to, plus what the policy adds to it."""
    # Random weights: the sum of a normalised vector would have no gradient.
    task = (state.patches * torch.randn_like(state.patches)).mean()
    trace = TokenTrace(state.trace, state.grid)
    return task + sum(trunk.policy.losses(trace, {"loss_task": task}).values())


def replay(recorded, *, gated):
    """For `forced`: the recorded selections, as a gate or as they are."""

    def change(layer, stage, selection):
        then = recorded[layer]
        keep = then.entered if stage == "enter" and then.entered is not None else then.keep
        if gated:
            return replace(selection, keep=keep, gate=keep.float(), whole=False)
        return replace(selection, keep=keep, gate=None, whole=then.whole and stage == "enter")

    return change


def only(allowed, *, layers=range(DEPTH)):
    """For `forced`: in these blocks, nobody but `allowed` (B, N)."""

    def change(layer, stage, selection):
        if layer not in layers:
            return selection
        gate = None if selection.gate is None else selection.gate * allowed
        return replace(selection, keep=selection.keep & allowed, gate=gate, whole=False)

    return change


def everybody(layer, stage, selection):
    """For `forced`: all tokens in all blocks, without saying so beforehand."""
    gate = None if selection.gate is None else torch.ones_like(selection.gate)
    return replace(selection, keep=torch.ones_like(selection.keep), gate=gate, whole=False)


# ------------------------------------------------------------------ 1. shapes


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (1, 7), (5, 1), (4, 3)])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_grid_keeps_its_shape_and_every_block_leaves_a_selection(
    policy, tiny_trunk, images, grid, training
):
    trunk = tiny_trunk(policy).train(training)
    state = trunk(images(2, grid))
    num_tokens = grid[0] * grid[1]
    assert state.grid == grid
    assert state.patches.shape == (2, num_tokens, 24)
    assert len(state.trace) == DEPTH
    for selection in state.trace:
        assert selection.keep.shape == (2, num_tokens)
        assert selection.keep.dtype == torch.bool
        if selection.whole:
            assert selection.keep.all()
        if selection.gate is not None:
            assert torch.equal(selection.gate, selection.keep.float())


# ------------------------------------------------------------------ 2. batches


def test_a_batch_of_two_is_two_batches_of_one(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy)
    both = images(2, (5, 7))
    with torch.no_grad():
        together = trunk(both)
        alone = [trunk(both[image : image + 1]) for image in range(2)]
    assert_close(together.patches, torch.cat([state.patches for state in alone]), **TOLERANCE)
    assert_close(together.extra, torch.cat([state.extra for state in alone]), **TOLERANCE)
    for layer in range(DEPTH):
        kept = [state.trace[layer].keep for state in alone]
        assert torch.equal(together.trace[layer].keep, torch.cat(kept))


# ------------------------------------------------------------------ 3. masked and packed


def test_masked_execution_with_a_hard_gate_equals_packed_execution(
    policy, tiny_trunk, images, forced
):
    trunk = tiny_trunk(policy)
    batch = images(3, (5, 7))
    with torch.no_grad():
        recorded = trunk(batch).trace
        trunk.policy = forced(policy, replay(recorded, gated=False))
        packed = trunk(batch)
        trunk.policy = forced(policy, replay(recorded, gated=True))
        masked = trunk(batch)
    assert all(selection.gate is None for selection in packed.trace)
    assert all(selection.gate is not None for selection in masked.trace)
    assert_same_trace(packed.trace, recorded)
    assert_same_trace(masked.trace, recorded)
    assert_close(masked.patches, packed.patches, **TOLERANCE)
    assert_close(masked.extra, packed.extra, **TOLERANCE)
    for one, two in zip(packed.trace, masked.trace):
        if one.entered is not None:  # the scores are what the class token saw
            assert_close(one.score, two.score, **TOLERANCE)


# ------------------------------------------------------------------ 4. skipped tokens


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_skipped_token_is_bit_identical_afterwards(policy, tiny_trunk, images, training):
    trunk = tiny_trunk(policy).train(training)
    changed = 0
    with torch.no_grad():
        state = trunk.embed(images(2, (5, 7)))
        for layer in range(DEPTH):
            before, state = state, trunk.run(state, layer, layer + 1)
            ran = took_part(state.trace[-1])
            changed += (state.patches[ran] != before.patches[ran]).any(dim=-1).sum()
            if policy.preserves:
                assert torch.equal(state.patches[~ran], before.patches[~ran])
    assert changed > 0


# ------------------------------------------------------------------ 5. gradients


def test_every_parameter_gets_a_gradient_in_training(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy).train()
    state = trunk(images(2, (6, 7)))
    losses_of(trunk, state).backward()
    without = [name for name, p in trunk.named_parameters() if p.grad is None]
    assert without == []
    broken = [name for name, p in trunk.named_parameters() if not p.grad.isfinite().all()]
    assert broken == []
    zero = [name for name, p in trunk.named_parameters() if not p.grad.any()]
    assert zero == []


# ------------------------------------------------------------------ 6. nobody and everybody


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("layers", [range(DEPTH), [4], [0, 11]], ids=["all", "one", "ends"])
@pytest.mark.parametrize("emptied", [[0], [0, 1]], ids=["one image", "all images"])
def test_nobody_kept_is_finite_forwards_and_backwards(
    policy, tiny_trunk, images, forced, training, layers, emptied
):
    allowed = torch.ones(2, 35, dtype=torch.bool)
    allowed[emptied] = False
    trunk = tiny_trunk(forced(policy, only(allowed, layers=layers))).train(training)
    state = trunk(images(2, (5, 7)))
    assert all(not state.trace[layer].keep[emptied].any() for layer in layers)
    assert state.patches.isfinite().all()
    assert state.extra.isfinite().all()
    losses_of(trunk, state).backward() if training else state.patches.square().sum().backward()
    broken = [
        name
        for name, p in trunk.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    assert broken == []


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nobody_kept_is_a_no_op(policy, tiny_trunk, images, forced, training):
    batch = images(2, (5, 7))
    allowed = torch.ones(2, 35, dtype=torch.bool)
    allowed[0] = False
    trunk = tiny_trunk(forced(policy, only(allowed))).train(training)
    with torch.no_grad():
        embedded, state = trunk.embed(batch), trunk(batch)
        assert torch.equal(state.patches[0], embedded.patches[0]) == policy.preserves
        assert not torch.equal(state.patches[1], embedded.patches[1])
        trunk.policy = forced(policy, only(torch.zeros_like(allowed)))
        assert torch.equal(trunk(batch).patches, embedded.patches) == policy.preserves


def test_an_image_that_keeps_nobody_leaves_the_other_as_it_is_alone(
    policy, tiny_trunk, images, forced
):
    batch = images(2, (5, 7))
    allowed = torch.ones(2, 35, dtype=torch.bool)
    allowed[0] = False
    trunk = tiny_trunk(forced(policy, only(allowed)))
    with torch.no_grad():
        state = trunk(batch)
        trunk.policy = policy
        alone = trunk(batch[1:])
    assert_close(state.patches[1:], alone.patches, **TOLERANCE)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_everybody_kept_is_the_dense_model(
    policy, tiny_trunk, images, forced, class_everyone, training
):
    batch = images(2, (3, 5))
    trunk = tiny_trunk(forced(policy, everybody)).train(training)
    with torch.no_grad():
        state = trunk(batch)
        if policy.adds_tokens:  # everyone runs, and more than the dense model has run along
            assert all(selection.keep.all() for selection in state.trace)
            assert (state.trace[-1].extra_counts > 1).all()
            return
        # Without a class token of its own this is the `Dense` policy by another name.
        dense = tiny_trunk(class_everyone() if policy.needs_class_token else None)
        dense.load_state_dict(
            {n: v for n, v in trunk.state_dict().items() if not n.startswith("policy.")}
        )
        assert_close(state.patches, dense(batch).patches, **TOLERANCE)


# ------------------------------------------------------------------ 7. stages


@pytest.mark.parametrize("stops", [(3, 6, 9, 12), (1, 12), (5, 6, 11, 12), range(1, 13)])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_run_in_stages_is_a_run_at_once(policy, tiny_trunk, images, stops, training):
    trunk = tiny_trunk(policy).train(training)
    batch = images(2, (3, 5))
    with torch.no_grad():
        torch.manual_seed(3)
        at_once = trunk(batch)
        torch.manual_seed(3)
        state, start = trunk.embed(batch), 0
        for stop in stops:
            state, start = trunk.run(state, start, stop), stop
    assert torch.equal(state.patches, at_once.patches)
    assert torch.equal(state.extra, at_once.extra)
    assert_same_trace(state.trace, at_once.trace)


# ------------------------------------------------------------------ 8. repeating and copying


def test_the_same_seed_gives_the_same_trace(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy, drop_path_rate=0.3).train()
    batch = images(2, (3, 5))
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(trunk(batch))
    assert torch.equal(runs[0].patches, runs[1].patches)
    assert_same_trace(runs[0].trace, runs[1].trace)


def test_evaluation_is_deterministic(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy, drop_path_rate=0.3)
    batch = images(2, (3, 5))
    with torch.no_grad():
        first, second = trunk(batch), trunk(batch)
    assert torch.equal(first.patches, second.patches)
    assert_same_trace(first.trace, second.trace)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_deterministic_in_every_mode_of_svit(make_policy, tiny_trunk, images, mode):
    policy = make_policy("SViT")
    policy.mode = mode
    trunk = tiny_trunk(policy)
    batch = images(2, (5, 7))
    with torch.no_grad():
        first = trunk(batch)
        torch.randn(7)  # other people's draws do not matter
        second, alone = trunk(batch), trunk(batch[1:])
    assert torch.equal(first.patches, second.patches)
    assert_same_trace(first.trace, second.trace)
    assert not all(selection.keep.all() for selection in first.trace)
    assert_close(first.patches[1:], alone.patches, **TOLERANCE)


def test_a_trained_model_can_be_copied(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy).train()
    batch = images(2, (6, 7))
    state = trunk(batch)
    losses_of(trunk, state).backward()
    trunk.policy.track(TokenTrace(state.trace, state.grid))
    twin = copy.deepcopy(trunk)
    with torch.no_grad():
        ours, theirs = trunk.eval()(batch), twin.eval()(batch)
    assert torch.equal(ours.patches, theirs.patches)
    assert_same_trace(ours.trace, theirs.trace)


def test_a_state_dict_is_all_there_is_to_save(policy_case, tiny_trunk, images):
    batch = images(2, (6, 7))
    trained = tiny_trunk(policy_case.build()).train()
    state = trained(batch)
    trained.policy.track(TokenTrace(state.trace, state.grid))
    fresh = tiny_trunk(policy_case.build())
    fresh.load_state_dict(trained.state_dict())
    with torch.no_grad():
        saved, loaded = trained.eval()(batch), fresh(batch)
    assert torch.equal(saved.patches, loaded.patches)
    assert_same_trace(saved.trace, loaded.trace)


# ------------------------------------------------------------------ reduced precision


@pytest.mark.parametrize("training", [False, True], ids=["packed", "masked"])
def test_autocast_to_bfloat16(policy, tiny_trunk, images, training):
    trunk = tiny_trunk(policy).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = trunk(images(2, (5, 7)))
        loss = losses_of(trunk, state) if training else state.patches.square().mean()
    assert state.patches.dtype == state.extra.dtype == torch.float32
    assert state.patches.isfinite().all()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trunk.parameters() if p.grad is not None)
