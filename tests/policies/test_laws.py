"""The laws: what must hold under every policy. They run over every registered policy by themselves.

Twelve blocks of 24 channels, tokens of 4 x 4 pixels; B images, N patch tokens. What a policy breaks
by design it says in a class attribute (`preserves`), never here.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.vit import Execution, Masked, Packed, Padded

DEPTH = 12
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
MODES_OF_A_MODULE = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def only(candidates, *, layers=range(DEPTH)):
    """For `forced`: in these blocks, no token but the `candidates` (B, N)."""

    def change(layer, stage, selection):
        if layer not in layers:
            return selection
        gate, soft_keys = (
            None if each is None else each * candidates
            for each in (selection.gate, selection.soft_keys)
        )
        keep = selection.keep & candidates
        return replace(selection, keep=keep, gate=gate, soft_keys=soft_keys, total=None)

    return change


def every_token(layer, stage, selection):
    """For `forced`: all tokens in all blocks, without saying so beforehand."""
    masks = ("keep", "gate", "soft_keys", "extra", "extra_gate")
    fields = {name: getattr(selection, name) for name in masks}
    ones = {name: torch.ones_like(each) for name, each in fields.items() if each is not None}
    parts = selection.parts
    if parts is not None:
        parts = replace(parts, **{part: torch.ones_like(on) for part, on in vars(parts).items()})
    return replace(selection, total=None, parts=parts, **ones)


# ------------------------------------------------------------------ 1. shapes


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (1, 7), (5, 1), (4, 3)])
@MODES_OF_A_MODULE
def test_the_grid_keeps_its_shape_and_every_block_leaves_a_record(
    policy, tiny_trunk, images, grid, training
):
    trunk = tiny_trunk(policy).train(training)
    state = trunk(images(2, grid))
    num_tokens = grid[0] * grid[1]
    assert state.grid.shape == grid
    assert state.patches.shape == (2, num_tokens, 24)
    assert trunk.read_map(state).shape == (2, num_tokens, 24)
    assert len(state.history) == DEPTH
    for record in state.history:
        for mask in (record.selection.keep, record.keys, record.queries, record.mlp):
            assert mask.shape == (2, num_tokens)
            assert mask.dtype == torch.bool
        if record.everyone:
            assert record.selection.keep.all()
        if record.selection.gate is not None:
            assert torch.equal(record.selection.gate, record.selection.keep.float())


# ------------------------------------------------------------------ 2. batches


def test_a_batch_of_two_is_two_batches_of_one(policy, tiny_trunk, images):
    trunk = tiny_trunk(policy)
    both = images(2, (5, 7))
    with torch.no_grad():
        together = trunk(both)
        alone = [trunk(both[image : image + 1]) for image in range(2)]
    assert_close(together.tokens, torch.cat([state.tokens for state in alone]), **TOLERANCE)
    for layer in range(DEPTH):
        kept = [state.history[layer].selection.keep for state in alone]
        assert torch.equal(together.history[layer].selection.keep, torch.cat(kept))


# ------------------------------------------------------------------ 3. masked, packed and padded


def test_masked_execution_with_a_hard_gate_equals_packed_execution(
    policy, tiny_trunk, images, forced, replay, same_history, same_outcome
):
    trunk = tiny_trunk(policy)
    batch = images(3, (5, 7))
    with torch.no_grad():
        history = trunk(batch).history
        trunk.policy = forced(policy, replay(history))
        packed = trunk(batch)
        trunk.policy = forced(policy, replay(history, gated=True))
        masked = trunk(batch)
    assert all(record.selection.gate is None for record in packed.history)
    assert all(record.selection.gate is not None for record in masked.history)
    same_history(packed.history, history)
    same_outcome(masked, packed)


def test_every_executor_of_hard_selections_comes_to_the_same(
    policy, tiny_trunk, images, forced, replay, same_outcome
):
    trunk = tiny_trunk(policy)
    batch = images(3, (5, 7))
    with torch.no_grad():
        trunk.policy = forced(policy, replay(trunk(batch).history))
        packed = trunk(batch)
        # Extra tokens always have room, also where no image has them.
        most = [
            max(*record.rows.keys, *record.rows.mlp, record.size - 35, 1)
            for record in packed.history
        ]
        for hard in (Masked(), Padded(1.0), Padded(most)):
            trunk.execution = Execution(hard=hard)
            same_outcome(trunk(batch), packed)
    assert isinstance(Execution().hard, Packed)


# ------------------------------------------------------------------ 4. skipped tokens


@MODES_OF_A_MODULE
def test_a_skipped_token_is_bit_identical_afterwards(policy, tiny_trunk, images, training):
    trunk = tiny_trunk(policy).train(training)
    changed = 0
    with torch.no_grad():
        state = trunk.embed(images(2, (5, 7)))
        for layer in range(DEPTH):
            before, state = state, trunk.run(state, layer, layer + 1)
            extra = state.history[-1].selection.extra
            if extra is not None:  # a class token that a gate skips
                assert torch.equal(state.extra[~extra], before.extra[~extra])
            ran = state.history[-1].took_part
            changed += (state.patches[ran] != before.patches[ran]).any(dim=-1).sum()
            if policy.preserves:
                assert torch.equal(state.patches[~ran], before.patches[~ran])
    assert changed > 0


# ------------------------------------------------------------------ 5. gradients


def test_every_parameter_gets_a_gradient_in_training(policy, tiny_trunk, images, losses_of):
    trunk = tiny_trunk(policy).train()
    zero = None
    for _ in range(8):  # by chance no image of a pass may run some sub-layer
        losses_of(trunk, trunk(images(6, (4, 5)))).backward()
        without = [name for name, p in trunk.named_parameters() if p.grad is None]
        assert without == []
        broken = [name for name, p in trunk.named_parameters() if not p.grad.isfinite().all()]
        assert broken == []
        zero = [name for name, p in trunk.named_parameters() if not p.grad.any()]
        if not zero:
            break
    assert zero == []


# ------------------------------------------------------------------ 6. no token and every token


@MODES_OF_A_MODULE
@pytest.mark.parametrize("layers", [range(DEPTH), [4], [0, 11]], ids=["all", "one", "ends"])
@pytest.mark.parametrize("emptied", [[0], [0, 1]], ids=["one image", "all images"])
def test_no_token_kept_is_finite_forwards_and_backwards(
    policy, tiny_trunk, images, forced, losses_of, training, layers, emptied
):
    candidates = torch.ones(2, 35, dtype=torch.bool)
    candidates[emptied] = False
    trunk = tiny_trunk(forced(policy, only(candidates, layers=layers))).train(training)
    state = trunk(images(2, (5, 7)))
    assert all(not state.history[layer].selection.keep[emptied].any() for layer in layers)
    assert state.tokens.isfinite().all()
    losses_of(trunk, state).backward() if training else state.patches.square().sum().backward()
    broken = [
        name
        for name, p in trunk.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    assert broken == []


@MODES_OF_A_MODULE
def test_no_token_kept_is_a_no_op(policy, tiny_trunk, images, forced, training):
    batch = images(2, (5, 7))
    candidates = torch.ones(2, 35, dtype=torch.bool)
    candidates[0] = False
    trunk = tiny_trunk(forced(policy, only(candidates))).train(training)
    with torch.no_grad():
        embedded, state = trunk.embed(batch), trunk(batch)
        assert torch.equal(state.patches[0], embedded.patches[0]) == policy.preserves
        assert not torch.equal(state.patches[1], embedded.patches[1])
        trunk.policy = forced(policy, only(torch.zeros_like(candidates)))
        assert torch.equal(trunk(batch).patches, embedded.patches) == policy.preserves


def test_an_image_that_keeps_no_token_leaves_the_other_as_it_is_alone(
    policy, tiny_trunk, images, forced
):
    batch = images(2, (5, 7))
    candidates = torch.ones(2, 35, dtype=torch.bool)
    candidates[0] = False
    trunk = tiny_trunk(forced(policy, only(candidates)))
    with torch.no_grad():
        state = trunk(batch)
        trunk.policy = policy
        alone = trunk(batch[1:])
    assert_close(state.patches[1:], alone.patches, **TOLERANCE)


@MODES_OF_A_MODULE
def test_every_token_kept_is_the_dense_model(
    policy, tiny_trunk, images, forced, class_everyone, training
):
    batch = images(2, (3, 5))
    trunk = tiny_trunk(forced(policy, every_token)).train(training)
    with torch.no_grad():
        state = trunk(batch)
        if policy.adds_tokens:  # every token runs, and more than the dense model has run along
            assert all(record.selection.keep.all() for record in state.history)
            assert min(state.history[-1].rows.mlp) > policy.needs_class_token + 15
            return
        # Without a class token of its own this is the `Dense` policy by another name.
        dense = tiny_trunk(class_everyone() if policy.needs_class_token else None)
        dense.load_state_dict(
            {n: v for n, v in trunk.state_dict().items() if not n.startswith("policy.")}
        )
        assert_close(state.patches, dense(batch).patches, **TOLERANCE)


# ------------------------------------------------------------------ 7. stages


@pytest.mark.parametrize("stops", [(3, 6, 9, 12), (1, 12), (5, 6, 11, 12), range(1, 13)])
@MODES_OF_A_MODULE
def test_a_run_in_stages_is_a_run_at_once(
    policy, tiny_trunk, images, same_history, stops, training
):
    trunk = tiny_trunk(policy).train(training)
    batch = images(2, (3, 5))
    with torch.no_grad():
        torch.manual_seed(3)
        at_once = trunk(batch)
        torch.manual_seed(3)
        state, start = trunk.embed(batch), 0
        for stop in stops:
            state, start = trunk.run(state, start, stop), stop
    assert torch.equal(state.tokens, at_once.tokens)
    same_history(state.history, at_once.history)


# ------------------------------------------------------------------ 8. repeating and copying


def test_the_same_seed_gives_the_same_pass(policy, tiny_trunk, images, same_history):
    trunk = tiny_trunk(policy, drop_path_rate=0.3).train()
    batch = images(2, (3, 5))
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(trunk(batch))
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    same_history(runs[0].history, runs[1].history)


def test_evaluation_is_deterministic(policy, tiny_trunk, images, same_history):
    trunk = tiny_trunk(policy, drop_path_rate=0.3)
    batch = images(2, (3, 5))
    with torch.no_grad():
        first, second = trunk(batch), trunk(batch)
    assert torch.equal(first.tokens, second.tokens)
    same_history(first.history, second.history)


def test_a_trained_model_can_be_copied(
    policy, tiny_trunk, images, losses_of, pass_of, same_history
):
    trunk = tiny_trunk(policy).train()
    batch = images(2, (6, 7))
    state = trunk(batch)
    losses_of(trunk, state).backward()
    trunk.policy.track(pass_of(trunk, state))
    twin = copy.deepcopy(trunk)
    with torch.no_grad():
        ours, theirs = trunk.eval()(batch), twin.eval()(batch)
    assert torch.equal(ours.tokens, theirs.tokens)
    same_history(ours.history, theirs.history)


def test_a_state_dict_is_all_there_is_to_save(
    policy_case, tiny_trunk, images, pass_of, same_history
):
    batch = images(2, (6, 7))
    trained = tiny_trunk(policy_case.build()).train()
    state = trained(batch)
    trained.policy.track(pass_of(trained, state))
    fresh = tiny_trunk(policy_case.build())
    fresh.load_state_dict(trained.state_dict())
    with torch.no_grad():
        saved, loaded = trained.eval()(batch), fresh(batch)
    assert torch.equal(saved.tokens, loaded.tokens)
    same_history(saved.history, loaded.history)


# ------------------------------------------------------------------ reduced precision


@pytest.mark.parametrize("training", [False, True], ids=["packed", "masked"])
def test_autocast_to_bfloat16(policy, tiny_trunk, images, losses_of, training):
    trunk = tiny_trunk(policy).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = trunk(images(2, (5, 7)))
        loss = losses_of(trunk, state) if training else state.patches.square().mean()
    assert state.tokens.dtype == torch.float32
    assert state.tokens.isfinite().all()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trunk.parameters() if p.grad is not None)
