"""run_block: what a policy says is what runs, packed and masked."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import TokenPolicy
from svit_det.tokens import Selection, everyone
from svit_det.vit import Execution
from svit_det.vit.execution import run_block

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
# Two images of a 2 x 3 grid.
SOME = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()
FEWER = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
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
EXTRAS = pytest.mark.parametrize("num_extra", [0, 1, 2])
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])


def selection_of(keep, masked=False):
    return Selection(keep=keep, gate=keep.float() if masked else None)


def rows_of(state, image, keep):
    """The extra tokens and the kept patch tokens of one image."""
    return torch.cat([state.extra[image], state.patches[image][keep[image]]])


@EXTRAS
@KEEPS
def test_packed_runs_what_is_kept_image_by_image(run, by_hand, a_state, keep, num_extra):
    state = a_state(num_extra)
    after = run(state, Selection(keep=keep))
    for image in range(2):
        kept = keep[image]
        expected = by_hand.finished(rows_of(state, image, keep))
        assert_close(after.extra[image], expected[:num_extra], **TOLERANCE)
        assert_close(after.patches[image][kept], expected[num_extra:], **TOLERANCE)
        assert torch.equal(after.patches[image][~kept], state.patches[image][~kept])


@EXTRAS
@KEEPS
def test_masked_equals_packed(run, a_state, keep, num_extra):
    state = a_state(num_extra)
    packed, masked = run(state, selection_of(keep)), run(state, selection_of(keep, masked=True))
    assert_close(masked.tokens, packed.tokens, **TOLERANCE)
    assert torch.equal(masked.patches[~keep], state.patches[~keep])


@EXTRAS
def test_a_promised_total_runs_the_same(run, a_state, num_extra):
    state = a_state(num_extra)
    three = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1]]).bool()
    for keep, count in ((EVERYONE, 6), (three, 3)):
        promised = run(state, Selection(keep=keep, total=count + num_extra))
        counted = run(state, Selection(keep=keep))
        assert_close(promised.tokens, counted.tokens, **TOLERANCE)
        assert promised.history[0].rows == counted.history[0].rows


def test_extra_tokens_do_not_see_hidden_patches(run, a_state):
    state = a_state(num_extra=1)
    louder = state.with_patches(torch.where(SOME.unsqueeze(-1), state.patches, 100.0))
    for masked in (False, True):
        selection = selection_of(SOME, masked)
        assert_close(run(louder, selection).extra, run(state, selection).extra, **TOLERANCE)


def test_the_block_is_not_called_for_no_rows(run, block, a_state):
    calls = []
    for module in (block.norm1, block.attn.qkv, block.norm2, block.mlp):
        module.register_forward_hook(lambda *_: calls.append(1))
    state = a_state()
    after = run(state, Selection(keep=NOBODY))
    assert calls == []
    assert after.tokens is state.tokens
    assert after.history[0].rows == ((0, 0), (0, 0), (0, 0))


def test_the_history_grows_by_what_was_selected(run, a_state):
    earlier = run(a_state(), everyone(a_state())).history
    after = run(a_state(history=earlier), Selection(keep=SOME))
    assert after.history[0] is earlier[0]
    record = after.history[1]
    for kept in (record.selection.keep, record.keys, record.queries, record.mlp):
        assert torch.equal(kept, SOME)
    assert record.rows == ((3, 1), (3, 1), (3, 1))
    assert not record.looked and not record.everyone and earlier[0].everyone


@MASKED
def test_the_record_counts_the_rows_that_were_computed(run, a_state, masked):
    record = run(a_state(num_extra=2), selection_of(SOME, masked)).history[0]
    assert record.rows == (((8, 8),) * 3 if masked else ((5, 3),) * 3)
    assert record.size == 8


@KEEPS
@MASKED
def test_an_extra_token_that_an_image_lacks_takes_no_part(run, a_state, keep, masked):
    """The second image lacks the second extra token: it computes what it would without a place."""
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    state = a_state(num_extra=2, present=present)
    after = run(state, selection_of(keep, masked))
    for image in range(2):
        num_extra = 2 - image
        own = replace(
            state,
            tokens=torch.cat([state.extra[[image], :num_extra], state.patches[[image]]], dim=1),
            num_extra=num_extra,
            present=None,
        )
        alone = run(own, Selection(keep=keep[[image]]))
        assert_close(after.patches[image], alone.patches[0], **TOLERANCE)
        assert_close(after.extra[image, :num_extra], alone.extra[0], **TOLERANCE)
    assert torch.equal(after.extra[1, 1], state.extra[1, 1])
    if not masked:
        kept = keep.sum(dim=1).tolist()
        assert after.history[0].rows.keys == (kept[0] + 2, kept[1] + 1)


def test_everyone_promises_no_total_where_an_extra_token_is_missing(run, a_state):
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    state = a_state(num_extra=2, present=present)
    after = run(state, everyone(state))
    assert_close(after.tokens, run(state, Selection(keep=EVERYONE)).tokens, **TOLERANCE)
    assert torch.equal(after.extra[1, 1], state.extra[1, 1])


# ------------------------------------------------------------------ narrowing inside the block


class Narrowing(TokenPolicy):
    """Enters with one selection and goes on with another, before or after the attention."""

    def __init__(self, entering, going, moment):
        super().__init__()
        self.entering, self.going, self.moment = entering, going, moment

    def before_block(self, view, state):
        return state, self.entering

    def before_attention(self, view, state, selection):
        if self.moment != "before":
            return state, selection
        return replace(state, notes={"seen": True}), self.going

    def after_attention(self, view, state, selection):
        return state, self.going if self.moment == "after" else selection


@MASKED
def test_fewer_may_go_on_to_the_mlp(run, by_hand, a_state, masked):
    state = a_state(num_extra=1)
    going = selection_of(FEWER, masked)
    after = run(state, Narrowing(selection_of(SOME, masked), going, "after"))
    record = after.history[0]
    assert torch.equal(record.selection.keep, FEWER) and torch.equal(record.mlp, FEWER)
    assert torch.equal(record.keys, SOME) and torch.equal(record.queries, SOME)
    assert record.rows == (((7, 7),) * 3 if masked else ((4, 2), (4, 2), (3, 1)))
    for image in range(2):
        kept = SOME[image]
        attended = by_hand.attended(rows_of(state, image, SOME))
        finished = by_hand.fed(attended)
        on = FEWER[image][kept]
        assert_close(after.extra[image], finished[:1], **TOLERANCE)
        assert_close(after.patches[image][kept][on], finished[1:][on], **TOLERANCE)
        assert_close(after.patches[image][kept][~on], attended[1:][~on], **TOLERANCE)
        assert torch.equal(after.patches[image][~kept], state.patches[image][~kept])


@pytest.mark.parametrize("entering", [SOME, EVERYONE], ids=["some", "everyone"])
@pytest.mark.parametrize(
    ("masked", "going_masked"),
    [(False, False), (True, True), (True, False), (False, True)],
    ids=["packed", "masked", "masked, then packed", "packed, then masked"],
)
def test_fewer_may_attend(run, by_hand, a_state, entering, masked, going_masked):
    """Skipped before the attention: still a key, but no query, and as it was afterwards."""
    state = a_state(num_extra=1)
    total = 7 if entering is EVERYONE and not masked else None
    policy = Narrowing(
        replace(selection_of(entering, masked), total=total),
        selection_of(FEWER, going_masked),
        "before",
    )
    after = run(state, policy)
    assert after.notes == {"seen": True}
    record = after.history[0]
    assert torch.equal(record.selection.keep, FEWER) and torch.equal(record.queries, FEWER)
    assert torch.equal(record.keys, entering)
    for image in range(2):
        finished = by_hand.finished(rows_of(state, image, entering))
        on = FEWER[image][entering[image]]
        assert_close(after.extra[image], finished[:1], **TOLERANCE)
        kept = after.patches[image][entering[image]]
        assert_close(kept[on], finished[1:][on], **TOLERANCE)
        assert torch.equal(after.patches[image][~FEWER[image]], state.patches[image][~FEWER[image]])


def test_the_gate_of_the_last_word_blends_and_stands_in_the_record(run, by_hand, a_state):
    """before_attention may leave the kept tokens and give them another gate (fault 2)."""
    state = a_state(num_extra=1)
    half = torch.full((2, 6), 0.5)
    entering = Selection(keep=EVERYONE, gate=torch.ones(2, 6))
    for moment in ("before", "after"):
        after = run(state, Narrowing(entering, replace(entering, gate=half), moment))
        assert after.history[0].selection.gate is half
        if moment == "before":
            finished = by_hand.finished(state.tokens[0])
            assert_close(after.patches[0], (finished[1:] + state.patches[0]) / 2, **TOLERANCE)
        else:
            attended = by_hand.attended(state.tokens[0])
            half_fed = (by_hand.fed(attended) + attended) / 2
            assert_close(after.patches[0], half_fed[1:], **TOLERANCE)


def test_a_token_may_be_changed_after_the_attention(run, by_hand, a_state):
    class Doubling(TokenPolicy):
        def after_attention(self, view, state, selection):
            state = view.attended()
            return state.with_patches(2 * state.patches), selection

    state = a_state(num_extra=1)
    after = run(state, Doubling())
    rows = by_hand.attended(state.tokens[0])
    expected = by_hand.fed(torch.cat([rows[:1], 2 * rows[1:]]))
    assert_close(after.tokens[0], expected, **TOLERANCE)


def test_the_last_word_is_had_after_the_block(run, a_state):
    """after_block sees what the policy entered with, what came out, and the record of it."""
    heard = []

    class Listening(TokenPolicy):
        def before_block(self, view, state):
            return state.with_more(state.extra[:, :1]), Selection(keep=SOME)

        def after_block(self, view, entered, state, record):
            heard.append((view, entered, state, record))
            return replace(state, tokens=state.tokens[:, 1:], num_extra=1)

    state = a_state(num_extra=1)
    after = run(state, Listening(), last=False)
    ((view, entered, came_out, record),) = heard
    assert (view.layer, view.last) == (0, False)
    assert entered.num_extra == came_out.num_extra == 2
    assert torch.equal(entered.tokens[:, 2:], state.patches)
    assert torch.equal(after.tokens, came_out.tokens[:, 1:])
    assert after.history == (record,)


# ------------------------------------------------------------------ precision and drop path


@MASKED
def test_half_precision_inside_a_block_stays_inside(run, a_state, masked):
    state = a_state(num_extra=1)
    selection = selection_of(SOME, masked)
    exact = run(state, selection)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(state, selection)
    assert rounded.tokens.dtype == torch.float32
    assert torch.equal(rounded.patches[~SOME], state.patches[~SOME])
    assert not torch.equal(rounded.patches, exact.patches)
    # bfloat16 has 8 bits: products of this size are off by some hundredths.
    assert_close(rounded.patches, exact.patches, atol=0.1, rtol=0.05)


def test_stochastic_depth_drops_the_same_branches_masked_and_packed(tiny_trunk, scripted, a_state):
    block = tiny_trunk(depth=2, drop_path_rate=0.5).blocks[1].train()
    state = a_state(num_extra=1)
    for seed in range(6):
        runs = []
        for selection in (selection_of(SOME), selection_of(SOME, masked=True)):
            torch.manual_seed(seed)
            policy = scripted([selection])
            runs.append(run_block(block, policy, state, layer=0, last=True, execution=Execution()))
        assert_close(runs[0].tokens, runs[1].tokens, **TOLERANCE)


def test_either_branch_is_dropped_by_itself(tiny_trunk, scripted, a_state, by_hand):
    block = tiny_trunk(depth=2, drop_path_rate=0.5).blocks[1].train()
    sums = type(by_hand)(block)
    state = a_state(batch=1)
    old = state.patches[0]

    def attended(rows):
        return rows + 2 * sums.branch(rows)  # 1 of 2 survives

    def fed(rows):
        return rows + 2 * block.mlp(block.norm2(rows))

    ways = [old, attended(old), fed(old), fed(attended(old))]
    came = set()
    for _ in range(40):
        policy = scripted([None])
        after = run_block(block, policy, state, layer=0, last=True, execution=Execution())
        came.add([torch.allclose(after.patches[0], way, atol=1e-5) for way in ways].index(True))
    assert came == {0, 1, 2, 3}
