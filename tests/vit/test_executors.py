"""Executors arrange rows in different ways, and the block comes out the same."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.tokens import Selection, everyone
from svit_det.vit import Execution, Masked, Packed, Padded

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
# Two images of a 2 x 3 grid.
SOME = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()
NONE_IN_SECOND = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
NOBODY = torch.zeros(2, 6, dtype=torch.bool)
EVERYONE = torch.ones(2, 6, dtype=torch.bool)
KEEPS = pytest.mark.parametrize(
    "keep",
    [
        pytest.param(SOME, id="some"),
        pytest.param(NONE_IN_SECOND, id="none in the second"),
        pytest.param(NOBODY, id="nobody"),
        pytest.param(EVERYONE, id="everyone"),
    ],
)
SECOND_LACKS_ONE = torch.tensor([[1, 1], [1, 0]]).bool()
SECOND_SKIPS_ONE = torch.tensor([[1, 1], [1, 0]]).bool()
PADDED = [Execution(Padded()), Execution(Padded(0.99)), Execution(Padded(8))]


# ------------------------------------------------------------------ the same comes out


@KEEPS
@pytest.mark.parametrize(
    ("num_extra", "present", "extra"),
    [
        (0, None, None),
        (1, None, None),
        (2, None, None),
        (2, SECOND_LACKS_ONE, None),
        (2, None, SECOND_SKIPS_ONE),
    ],
    ids=["no extra", "one extra", "two extra", "one absent", "one skipped"],
)
def test_packed_masked_and_padded_are_the_same(run, a_state, keep, num_extra, present, extra):
    state = a_state(num_extra, present=present)
    selection = Selection(keep=keep, extra=extra)
    packed = run(state, selection)
    ways = [run(state, selection, each) for each in (Execution(Masked()), *PADDED)]
    ways.append(run(state, replace(selection, gate=keep.float())))
    for way in ways:
        assert_close(way.tokens, packed.tokens, **TOLERANCE)
        ran = selection.mask(state.presence())
        assert torch.equal(way.tokens[~ran], state.tokens[~ran])
        assert torch.equal(way.history[0].selection.keep, keep)
        assert torch.equal(way.history[0].mlp, keep)


@pytest.mark.parametrize("executor", [Packed(), Masked(), Padded()], ids=repr)
def test_one_image(run, a_state, executor):
    state = a_state(1, batch=1)
    for keep in (SOME[:1], NOBODY[:1], EVERYONE[:1]):
        alone = run(state, Selection(keep=keep), Execution(executor))
        assert_close(alone.tokens, run(state, Selection(keep=keep)).tokens, **TOLERANCE)


def test_everyone_runs_in_every_executor_without_an_index(a_state):
    state = a_state(1)
    for executor in (Packed(), Padded(1)):
        rows = executor.enter(0, state, everyone(state))
        assert rows.layout.index is None
        assert rows.layout.shape == (2, 7)


@pytest.mark.parametrize("images", [1, 2])
def test_whoever_turns_out_to_keep_everyone_moves_no_rows(a_state, images):
    """The count depends on the data, and is that of the buffer."""
    state = a_state(1).image(0) if images == 1 else a_state(1)
    rows = Packed().enter(0, state, Selection(keep=EVERYONE[:images]))
    assert rows.layout.index is None and rows.layout.shape == (images, 7)


@pytest.mark.parametrize("executor", [Packed(), Padded()], ids=repr)
def test_a_promise_of_everyone_is_not_looked_at(a_state, executor):
    """No index is made, and a keep that says otherwise goes unread."""
    rows = executor.enter(0, a_state(1), Selection(keep=NOBODY, total=7))
    assert rows.layout.index is None
    assert rows.layout.lengths == (7, 7)


# ------------------------------------------------------------------ which one runs


def test_a_gate_picks_the_soft_executor(a_state):
    gated = Selection(keep=SOME, gate=SOME.float())
    execution = Execution()
    assert execution.enter(0, a_state(), gated).gate is gated.gate
    assert execution.enter(0, a_state(), Selection(keep=SOME)).gate is None
    assert execution.enter(0, a_state(), Selection(keep=SOME)).layout.lengths == (3, 1)


def test_the_executor_is_exchanged_between_passes(tiny_trunk, images, scripted):
    keep = torch.rand(2, 15) > 0.5
    trunk = tiny_trunk(scripted([Selection(keep=keep), None]), depth=2)
    batch = images()
    packed = trunk(batch)
    trunk.execution = Execution(Padded(0.9))
    padded = trunk(batch)
    assert packed.history[0].rows.keys == tuple(keep.sum(dim=1).tolist())
    assert padded.history[0].rows.keys == (14, 14)  # of 15, rounded
    assert_close(padded.tokens, packed.tokens, **TOLERANCE)


def test_a_soft_executor_without_a_gradient_is_refused():
    for executor in (Packed(), Padded()):
        with pytest.raises(InputError, match=r"^soft: \w+ passes no gradient"):
            Execution(soft=executor)
    Execution(hard=Masked(), soft=Masked())


@pytest.mark.parametrize("name", ["hard", "soft"])
@pytest.mark.parametrize("thing", ["packed", None, 3, dict])
def test_what_is_no_executor_is_refused(name, thing):
    with pytest.raises(InputError, match=f"^{name}: .* no executor"):
        Execution(**{name: thing})


# ------------------------------------------------------------------ masked


@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0])
def test_the_gate_blends_new_and_old(a_state, gate):
    state = a_state(num_extra=1)
    rows = Masked().enter(0, state, Selection(keep=EVERYONE, gate=torch.full((2, 6), gate)))
    new = torch.randn(14, 24)
    after = rows.scatter(state.tokens, new)
    new = new.unflatten(0, (2, 7))
    assert_close(after[:, 1:], gate * new[:, 1:] + (1 - gate) * state.patches)
    assert torch.equal(after[:, :1], new[:, :1])  # an extra token has no gate


def test_the_gate_learns_how_new_and_old_differ(a_state):
    state = a_state()
    gate = SOME.float().requires_grad_()
    new = torch.randn(12, 24)
    rows = Masked().enter(0, state, Selection(keep=SOME, gate=gate))
    rows.scatter(state.tokens, new).sum().backward()
    assert_close(gate.grad, (new.unflatten(0, (2, 6)) - state.patches).sum(dim=-1))


@KEEPS
@pytest.mark.parametrize("num_extra", [0, 1, 2])
@pytest.mark.parametrize("executor", [Masked(), Padded()], ids=repr)
def test_no_image_attends_to_nothing(a_state, keep, num_extra, executor):
    # Fused attention turns an empty softmax into 0, other kernels into NaN, and 0 * NaN is NaN.
    state = a_state(num_extra)
    layout = executor.enter(0, state, Selection(keep=keep)).layout
    assert layout.key_mask.any(dim=1).all()
    ran = Selection(keep=keep).mask(state.presence())
    some = ran.any(dim=1)
    assert torch.equal(layout.key_mask[some].sum(dim=1), ran[some].sum(dim=1))
    if isinstance(executor, Masked):
        assert torch.equal(layout.key_mask[some], ran[some])


def test_rows_in_half_precision_are_written_back_in_the_dtype_of_the_buffer(a_state):
    state = a_state(num_extra=1)
    for executor in (Packed(), Masked(), Padded(5)):
        rows = executor.enter(0, state, Selection(keep=SOME))
        after = rows.scatter(state.tokens, rows.gather(state.tokens).half())
        assert after.dtype == torch.float32


# ------------------------------------------------------------------ padded


SCORE = torch.tensor([[0.3, 0, 0, 0.1, 0.2, 0], [0, 0, 0.9, 0, 0, 0]])
ROOM_FOR_TWO = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()
FIRST_TWO = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()


@pytest.mark.parametrize("num_extra", [0, 1, 2])
@pytest.mark.parametrize(
    ("score", "kept"), [(SCORE, ROOM_FOR_TWO), (None, FIRST_TWO)], ids=["scores", "in order"]
)
def test_the_surplus_is_skipped_and_the_record_says_so(run, a_state, num_extra, score, kept):
    state = a_state(num_extra)
    padded = Execution(Padded(2 + num_extra))
    after = run(state, Selection(keep=SOME, score=score), padded)
    expected = run(state, Selection(keep=kept))
    assert_close(after.tokens, expected.tokens, **TOLERANCE)
    assert torch.equal(after.patches[~kept], state.patches[~kept])
    record = after.history[0]
    for each in (record.selection.keep, record.keys, record.queries, record.mlp):
        assert torch.equal(each, kept)
    assert record.rows == ((2 + num_extra,) * 2,) * 3


def test_exactly_as_much_room_as_is_needed_skips_nothing(run, a_state):
    after = run(a_state(1), Selection(keep=SOME, score=SCORE), Execution(Padded(4)))
    assert torch.equal(after.history[0].selection.keep, SOME)
    assert after.history[0].rows == ((4, 4),) * 3


def test_room_for_extra_tokens_alone(run, a_state):
    state = a_state(2)
    after = run(state, Selection(keep=SOME), Execution(Padded(2)))
    assert not after.history[0].selection.keep.any()
    assert_close(after.tokens, run(state, Selection(keep=NOBODY)).tokens, **TOLERANCE)


def test_a_known_count_has_exactly_its_room_whatever_the_capacity(run, a_state):
    three = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1]]).bool()
    after = run(a_state(1), Selection(keep=three, total=4), Execution(Padded(2)))
    assert torch.equal(after.history[0].selection.keep, three)
    assert after.history[0].rows == ((4, 4),) * 3


class LastTwo(TokenPolicy):
    """Enters with three tokens and goes on with the last two of the tokens that it is told."""

    def __init__(self, moment):
        super().__init__()
        self.moment = moment

    def before_block(self, view, state):
        return state, Selection(keep=SOME, score=SCORE)

    def go_on(self, selection):
        later = selection.keep.flip(1).cumsum(dim=1).flip(1) <= 2
        score = torch.arange(6.0).expand(2, 6)
        return replace(selection, keep=selection.keep & later, score=score)

    def before_attention(self, view, state, selection):
        return state, self.go_on(selection) if self.moment == "before" else selection

    def after_attention(self, view, state, selection):
        return state, self.go_on(selection) if self.moment == "after" else selection


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("capacity", [2, 3, 4, 7])
def test_a_token_without_room_has_no_part_in_the_rest_of_the_block(run, a_state, capacity, moment):
    record = run(a_state(1), LastTwo(moment), Execution(Padded(capacity))).history[0]
    assert record.keys.sum(dim=1).tolist() == [min(3, capacity - 1), 1]
    assert (record.queries <= record.keys).all()
    assert (record.mlp <= record.queries).all()
    assert record.mlp.sum(dim=1).tolist() == [min(2, capacity - 1), 1]


# ------------------------------------------------------------------ capacity


@pytest.mark.parametrize(
    ("capacity", "layer", "size", "room"),
    [
        (5, 0, 10, 5),
        (50, 3, 10, 10),
        (1.0, 0, 10, 10),
        (0.5, 0, 11, 6),  # 5.5, rounded to the even number
        (0.5, 0, 10, 5),
        ([10, 0.3, 4], 0, 10, 10),
        ([10, 0.3, 4], 1, 10, 3),
        ((10, 0.3, 4), 2, 10, 4),
    ],
)
def test_room_in_rows_or_as_a_share_for_all_blocks_or_each(capacity, layer, size, room):
    assert Padded(capacity).room(layer, size, num_extra=2) == room


@pytest.mark.parametrize("capacity", [0, -3, 0.0, 1.5, -0.5, float("nan"), [4, 0], [0.5, 1.01]])
def test_a_capacity_that_is_none_is_refused(capacity):
    with pytest.raises(InputError, match=r"^capacity: "):
        Padded(capacity)


def test_extra_tokens_must_have_room(a_state):
    with pytest.raises(InputError, match=r"^capacity: 1 gives block 4 room for 1 rows.* 2 extra"):
        Padded(1).enter(4, a_state(2), Selection(keep=SOME))
    with pytest.raises(InputError, match=r"^capacity: 0.01 gives block 0 room for 0 rows"):
        Padded(0.01).enter(0, a_state(0), Selection(keep=SOME))


def test_a_list_that_is_too_short(a_state):
    with pytest.raises(InputError, match=r"^capacity: 2 numbers do not reach block 2"):
        Padded([4, 4]).enter(2, a_state(), Selection(keep=SOME))


# ------------------------------------------------------------------ what is handed to a trunk


@pytest.mark.parametrize("wrong", [Packed(), Packed, None, "packed"])
def test_a_trunk_takes_an_execution_and_nothing_else(tiny_trunk, wrong):
    trunk = tiny_trunk(depth=1)
    with pytest.raises(InputError, match=r"execution: .* is no Execution"):
        trunk.execution = wrong


def test_an_execution_takes_executors_not_their_classes():
    with pytest.raises(InputError, match=r"hard: .* is no executor; give a Packed"):
        Execution(hard=Packed)


def test_soft_keys_alone_are_run_softly_and_never_show_a_skipped_token(a_state):
    """A soft key of one does not make a token a key that the block skips."""
    state = a_state(0)
    keep = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1]]).bool()
    rows = Execution().enter(0, state, Selection(keep=keep, soft_keys=torch.ones(2, 6)))
    assert rows.gate is not None
    assert torch.equal(rows.soft_keys, keep.float())
