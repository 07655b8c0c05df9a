"""Monotone: what was skipped once stays skipped."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import WRAPPER_REGISTRY, TokenPolicy, TrunkShape
from svit_det.policies.base import BlockView
from svit_det.policies.svit import MODES, SViT
from svit_det.policies.wrappers import Monotone, NarrowedView
from svit_det.tokens import BlockParts, Selection, everyone
from svit_det.vit import Execution, Padded

WRAPPERS = [WRAPPER_REGISTRY.get(name) for name in WRAPPER_REGISTRY.names()]


@pytest.fixture
def played(a_view, a_record):
    """The selections of `depth` blocks of a policy that looks at no values."""

    def play(policy, state, depth, **view):
        selections = []
        for layer in range(depth):
            state, selection = policy.before_block(a_view(layer, **view), state)
            state = policy.after_block(a_view(layer), state, state, a_record(selection))
            selections.append(selection)
        return selections

    return play


def chosen(*keep, gate=None):
    keep = torch.tensor([keep]).bool()
    return Selection(keep=keep, gate=gate)


def keeps_of(state):
    return torch.stack([record.selection.keep for record in state.history])


@pytest.mark.parametrize("mode", [*MODES, "training"])
@pytest.mark.parametrize("layers", [(3, 6, 9), range(12), (0, 11)], ids=str)
def test_monotone_never_reactivates_a_token(ablated, tiny_trunk, images, mode, layers):
    inner = ablated(
        mode="threshold" if mode == "training" else mode,
        layers=tuple(layers),
        keep_ratios=(0.9,) * len(layers),
    )
    for gate in inner.gates.values():  # mostly in favour: otherwise half are lost at each
        gate.forward = partial(lambda margin, tokens: margin, 2 + torch.randn(2, 42))
    batch = images(2, (6, 7))
    reactivated = {}
    for name, policy in (("with", Monotone(inner)), ("without", inner)):
        trunk = tiny_trunk(policy).train(mode == "training")
        keeps = keeps_of(trunk(batch))
        reactivated[name] = bool((keeps[1:] & ~keeps[:-1]).any())
        assert keeps[max(layers)].any()
        assert not keeps[max(layers)].all()
    assert reactivated == {"with": False, "without": True}


def test_a_decision_is_multiplied_by_the_one_before(scripted, a_state, played):
    policy = Monotone(scripted([None, chosen(1, 1, 0, 1), None, chosen(0, 1, 1, 1), None]))
    selections = played(policy, a_state(), 5)
    assert [s.keep.int().tolist()[0] for s in selections] == [
        [1, 1, 1, 1],
        [1, 1, 0, 1],
        [1, 1, 0, 1],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
    ]
    assert [s.total == 4 for s in selections] == [True, False, False, False, False]
    assert all(s.gate is None for s in selections)


def test_gates_multiply_and_are_inherited_without_a_gradient(scripted, a_state, played):
    first = torch.tensor([[1.0, 1, 0, 1]], requires_grad=True)
    second = torch.tensor([[0.0, 1, 1, 1]], requires_grad=True)
    policy = Monotone(
        scripted([chosen(1, 1, 0, 1, gate=first), None, chosen(0, 1, 1, 1, gate=second), None])
    )
    gates = [selection.gate for selection in played(policy, a_state(), 4)]
    assert gates[0] is first
    assert torch.equal(gates[1], first)
    assert torch.equal(gates[2], torch.tensor([[0.0, 1, 0, 1]]))
    assert torch.equal(gates[3], gates[2])
    assert [gate.requires_grad for gate in gates] == [True, False, True, False]
    gates[2].sum().backward()  # the product: each learns where the other kept
    assert torch.equal(first.grad, second.detach())
    assert torch.equal(second.grad, first.detach())


def test_a_gate_after_a_decision_without_one_agrees_with_the_mask(scripted, a_state, played):
    gate = torch.ones(1, 4)
    policy = Monotone(scripted([chosen(1, 0, 1, 1), chosen(1, 1, 1, 1, gate=gate)]))
    selection = played(policy, a_state(), 2)[1]
    assert selection.keep.int().tolist() == [[1, 0, 1, 1]]
    assert selection.gate.tolist() == [[1, 0, 1, 1]]


def test_the_policy_inside_is_told_what_is_left(a_state, a_view, a_record):
    told = []

    class Listener(TokenPolicy):
        def before_block(self, view, state):
            told.append(None if view.candidates is None else view.candidates.int().tolist()[0])
            return state, chosen(1, 1, 0, 1) if view.layer == 1 else everyone(state)

    state, policy = a_state(), Monotone(Listener())
    for layer in range(4):
        view = a_view(layer)
        state, selection = policy.before_block(view, state)
        state = policy.after_block(view, state, state, a_record(selection))
        assert view.candidates is None  # what was said to the policy inside stays inside
    assert told == [None, None, [1, 1, 0, 1], [1, 1, 0, 1]]


def test_a_narrowed_view_shows_all_that_a_view_shows(a_state, a_view):
    """Whatever is added to the contract must reach the policy inside."""
    state, some = a_state(), torch.tensor([[1, 0, 1, 1]]).bool()
    outer = a_view(7, last=True, attention=object(), norms=object(), after=object())
    view = NarrowedView(outer, some)
    shown = {*BlockView.__annotations__, *vars(BlockView)}
    for name in (name for name in shown if not name.startswith("_")):
        assert hasattr(view, name), name
    assert (view.layer, view.last, view.candidates) == (7, True, some)
    assert torch.equal(view.normed(state), state.patches)
    assert view.class_attention() is outer.attention
    assert view.value_norms() is outer.norms
    assert view.attended() is outer.after
    narrower = NarrowedView(view, torch.tensor([[1, 1, 0, 1]]).bool())
    assert narrower.candidates.int().tolist() == [[1, 0, 0, 1]]


def test_candidates_from_outside_stay_so(a_state, played):
    candidates = torch.tensor([[1, 0, 1, 1]]).bool()
    config = SViT.Config(layers=(0, 1), keep_ratios=(0.5, 0.5))
    policy = Monotone(SViT(config=config, shape=TrunkShape(24, 2, 3))).train()
    for _ in range(5):
        for selection in played(policy, a_state(), 2, candidates=candidates):
            assert not selection.keep[0, 1]


@dataclass(frozen=True)
class Count:
    """A note: how often it was written."""

    value: int


class Counts(TokenPolicy):
    """Writes down, at every moment, how often it did so."""

    needs_class_token = True
    Notes = Count

    def __init__(self):
        super().__init__()
        self.seen = []

    def one_more(self, state):
        note = self.recall(state)
        self.seen.append(None if note is None else note.value)
        return self.remember(state, Count(1 if note is None else note.value + 1))

    def before_block(self, view, state):
        return self.one_more(state), everyone(state)

    def before_attention(self, view, state, selection):
        return self.one_more(state), selection

    def after_attention(self, view, state, selection):
        return self.one_more(state), selection

    def after_block(self, view, entered, state, record):
        return self.one_more(state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_policy_inside_may_remember_at_every_moment(wrapper, tiny_trunk, images):
    policy = Counts()
    tiny_trunk(wrapper(policy), depth=3)(images(1))
    assert policy.seen == [None, *range(1, 12)]


def test_the_policy_inside_need_not_remember_what_it_dropped_inside_a_block(tiny_trunk, images):
    def nine(view, state, selection):
        if view.layer != 1:
            return state, selection
        keep = selection.keep & (torch.arange(15) < 9)
        return state, replace(selection, keep=keep, total=None)

    class DropsOnce(TokenPolicy):
        needs_class_token = True

        def after_attention(self, view, state, selection):
            return nine(view, state, selection)

    class DropsEarlier(TokenPolicy):
        needs_class_token = True

        def before_attention(self, view, state, selection):
            return nine(view, state, selection)

    for inside in (DropsOnce(), DropsEarlier()):
        trunk = tiny_trunk(Monotone(inside), depth=4)
        assert keeps_of(trunk(images(1))).sum(dim=2).flatten().tolist() == [15, 9, 9, 9]


def test_the_policy_inside_keeps_its_own_notes(scripted, a_state, played):
    class Remembers(scripted):
        Notes = Count

        def before_block(self, view, state):
            state, selection = super().before_block(view, state)
            note = self.recall(state)
            seen.append(None if note is None else note.value)
            return self.remember(state, Count((seen[-1] or 0) + 1)), selection

    seen = []
    played(Monotone(Monotone(Remembers([None, chosen(1, 0, 1, 1), None]))), a_state(), 3)
    assert seen == [None, 1, 2]


def test_what_a_block_drops_inside_is_gone_for_good(make_policy, tiny_trunk, images):
    batch = images(2, (5, 8))
    trunk = tiny_trunk(make_policy("Monotone(AttentiveHalf)"))
    counts = keeps_of(trunk(batch)).sum(dim=2).tolist()
    assert counts == [[40, 40]] * 2 + [[20, 20]] * 3 + [[10, 10]] * 7
    for training in (False, True):  # with gates besides
        trunk = tiny_trunk(make_policy("Monotone(GatedHalf)")).train(training)
        keeps = keeps_of(trunk(batch))
        assert not (keeps[1:] & ~keeps[:-1]).any()


def test_the_ratio_loss_sees_the_product(ablated, tiny_trunk, images, pass_of, no_task):
    trunk = tiny_trunk(Monotone(ablated())).train()
    record = pass_of(trunk, trunk(images(2, (6, 7))))
    shares = record.kept_shares()[[3, 6, 9]]
    expected = 4 * (shares - torch.tensor([0.7, 0.49, 0.343])).square().mean()
    assert_close(trunk.policy.losses(record, no_task)["loss_keep_ratio"], expected)
    assert shares[0] > shares[1] > shares[2]


def test_thresholds_under_monotone_spend_what_training_spent(ablated, tiny_trunk, images, pass_of):
    trunk = tiny_trunk(Monotone(ablated())).train()
    batch = images(4, (10, 10))
    trained = []
    for _ in range(25):
        with torch.no_grad():
            record = pass_of(trunk, trunk(batch))
        trunk.policy.track(record)
        trained.append(record.kept_shares())
    with torch.no_grad():
        spent = pass_of(trunk, trunk.eval()(batch)).kept_shares()
    # What a block skips changes what later gates see, so the margins are not quite those tracked.
    assert_close(spent, torch.stack(trained).mean(dim=0), atol=0.06, rtol=0)


def test_monotone_refuses_a_budget(ablated):
    with pytest.raises(InputError, match="test_keep_ratio: not under the wrapper Monotone"):
        Monotone(ablated(test_keep_ratio=0.5))
    policy = Monotone(ablated())
    with pytest.raises(InputError, match="where the shares of the blocks multiply; unset it"):
        policy.set_keep_ratio(0.5)
    policy.set_keep_ratio(None)
    assert policy.keep_ratio is None


def test_a_token_without_room_never_comes_back(tiny_trunk, images, make_policy):
    """Half of what the policy keeps has room: what was left out stays out in later blocks."""
    trunk = tiny_trunk(make_policy("Monotone(SViT)"))
    trunk.execution = Execution(hard=Padded(7))
    with torch.no_grad():
        history = trunk(images(2, (5, 7))).history
    keeps = torch.stack([block.selection.keep for block in history])
    narrowed = [block for block in history if block.selection.keep.sum(dim=1).max() == 7]
    assert narrowed
    assert not (keeps[1:] & ~keeps[:-1]).any()


@torch.no_grad()
def test_an_image_that_skips_a_block_as_a_whole_keeps_its_tokens(tiny_trunk, images, scripted):
    """Image 0 runs no part of block 1; its tokens are there again in block 2, but for token 0."""
    keep = torch.ones(2, 15, dtype=torch.bool)
    keep[:, 0] = False
    no_part = torch.tensor([False, True])
    parts = BlockParts(attend=no_part, feed=no_part, heads=torch.ones(2, 3, dtype=torch.bool))
    every = Selection(torch.ones_like(keep))
    said = [None, Selection(keep, parts=parts), every]
    history = tiny_trunk(Monotone(scripted(said)), depth=3)(images(2)).history
    assert not history[1].selection.keep[0].any()
    assert torch.equal(history[2].selection.keep, keep)
