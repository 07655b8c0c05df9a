"""Sub-layers and heads that run image by image, against the block's own modules."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import TokenPolicy
from svit_det.tokens import BlockParts, Selection
from svit_det.vit import Execution, Masked, Packed, Padded

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
# Three of six patch tokens in each of two images, and unequally many.
EQUAL = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1]]).bool()
RAGGED = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()
KEEPS = pytest.mark.parametrize("keep", [EQUAL, RAGGED], ids=["equal", "ragged"])
ALL_HEADS = [[1, 1, 1], [1, 1, 1]]
WAYS = pytest.mark.parametrize(
    ("execution", "gated"),
    [
        (Execution(Packed()), False),
        (Execution(Masked()), False),
        (Execution(Padded(5)), False),
        (Execution(), True),
    ],
    ids=["packed", "masked", "padded", "gates"],
)


def parts(attend=(1, 1), feed=(1, 1), heads=ALL_HEADS, *, gated=False):
    """Typed out for two images; gated: floating point, as in training."""
    kind = torch.float32 if gated else torch.bool
    return BlockParts(*(torch.tensor(each).to(kind) for each in (attend, feed, heads)))


def selection_of(keep, said, gated=False):
    return Selection(keep=keep, gate=keep.float() if gated else None, parts=said)


def expected_rows(by_hand, rows, said, image):
    """One image's rows after the parts that it runs."""
    if said.attend[image]:
        rows = by_hand.attended(rows, heads=said.heads[image].float())
    return by_hand.fed(rows) if said.feed[image] else rows


@KEEPS
@WAYS
@pytest.mark.parametrize("num_extra", [0, 1])
@pytest.mark.parametrize(
    "typed",
    [
        {"attend": (0, 1)},
        {"attend": (1, 0)},
        {"attend": (0, 0)},
        {"feed": (0, 1)},
        {"feed": (0, 0)},
        {"attend": (0, 1), "feed": (1, 0)},
        {"attend": (0, 1), "feed": (0, 1)},
        {"attend": (0, 0), "feed": (0, 0)},
        {"heads": [[1, 0, 1], [0, 0, 1]]},
        {"heads": [[0, 0, 0], [1, 1, 1]]},
        {"attend": (1, 0), "heads": [[1, 0, 1], [0, 0, 1]]},
        {},
    ],
    ids=str,
)
def test_each_image_runs_its_own_parts(
    run, by_hand, a_state, keep, execution, gated, num_extra, typed
):
    said = parts(**typed, gated=gated)
    state = a_state(num_extra)
    after = run(state, selection_of(keep, said, gated), execution)
    for image in range(2):
        kept = keep[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        expected = expected_rows(by_hand, rows, said, image)
        assert_close(after.extra[image], expected[:num_extra], **TOLERANCE)
        assert_close(after.patches[image][kept], expected[num_extra:], **TOLERANCE)
        assert torch.equal(after.patches[image][~kept], state.patches[image][~kept])
        if not said.attend[image] and not said.feed[image]:
            assert torch.equal(after.tokens[image], state.tokens[image])


@KEEPS
def test_the_record_says_which_part_each_token_took(run, a_state, keep):
    state = a_state(1)
    record = run(state, selection_of(keep, parts(attend=(0, 1), feed=(1, 0)))).history[0]
    counts = (keep.sum(dim=1) + 1).tolist()
    attending, fed = keep.clone(), keep.clone()
    attending[0], fed[1] = False, False
    assert torch.equal(record.keys, attending) and torch.equal(record.queries, attending)
    assert torch.equal(record.mlp, fed)
    assert record.rows == ((0, counts[1]), (0, counts[1]), (counts[0], 0))
    assert torch.equal(record.selection.keep, keep) and torch.equal(record.took_part, keep)


def test_an_image_that_runs_no_part_keeps_no_token(run, a_state):
    record = run(a_state(1), selection_of(EQUAL, parts(attend=(0, 1), feed=(0, 1)))).history[0]
    expected = EQUAL.clone()
    expected[0] = False
    assert torch.equal(record.selection.keep, expected)


def test_gates_of_parts_get_a_gradient(run, a_state):
    said = parts(attend=(0, 1), feed=(1, 0), heads=[[1, 0, 1], [0, 1, 1]], gated=True)
    for each in (said.attend, said.feed, said.heads):
        each.requires_grad_()
    run(a_state(1), selection_of(RAGGED, said, gated=True)).tokens.square().sum().backward()
    assert said.attend.grad.all() and said.feed.grad.all()
    # A head of an image whose attention does not run changes nothing.
    assert said.heads.grad[1].all() and not said.heads.grad[0].any()


class Deciding(TokenPolicy):
    """Says which parts run once keys are there, or after the attention; may look at both times."""

    def __init__(self, entering, *, before=None, after=None, looks=False, looks_after=False):
        super().__init__()
        self.entering, self.before, self.after = entering, before, after
        self.looks, self.looks_after, self.seen = looks, looks_after, None

    def before_block(self, view, state):
        return state, self.entering

    def before_attention(self, view, state, selection):
        if self.looks:
            self.seen = view.class_attention()
        return state, replace(selection, parts=self.before) if self.before else selection

    def after_attention(self, view, state, selection):
        if self.looks_after:
            self.seen = view.class_attention()
        return state, replace(selection, parts=self.after) if self.after else selection


@KEEPS
@WAYS
def test_parts_may_be_decided_when_keys_are_there(run, by_hand, a_state, keep, execution, gated):
    said = parts(attend=(1, 0), feed=(0, 1), heads=[[1, 0, 1], [1, 1, 0]], gated=gated)
    state = a_state(1)
    after = run(state, Deciding(selection_of(keep, None, gated), before=said), execution)
    for image in range(2):
        kept = keep[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        expected = expected_rows(by_hand, rows, said, image)
        assert_close(after.patches[image][kept], expected[1:], **TOLERANCE)


@KEEPS
@WAYS
def test_the_mlp_may_be_decided_after_the_attention(run, by_hand, a_state, keep, execution, gated):
    said = parts(feed=(0, 1), gated=gated)
    state = a_state(1)
    after = run(state, Deciding(selection_of(keep, None, gated), after=said), execution)
    for image in range(2):
        kept = keep[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        expected = expected_rows(by_hand, rows, said, image)
        assert_close(after.patches[image][kept], expected[1:], **TOLERANCE)


@KEEPS
@pytest.mark.parametrize("attend", [(1, 0), (0, 1)])
@pytest.mark.parametrize("executor", [Packed(), Masked(), Padded(5)], ids=repr)
def test_an_image_that_does_not_attend_shows_no_attention(
    run, by_hand, a_state, keep, attend, executor
):
    policy = Deciding(selection_of(keep, parts(attend=attend)), looks=True)
    state = a_state(1)
    run(state, policy, Execution(executor))
    for image in range(2):
        if not attend[image]:
            assert not policy.seen.weights[image].any()
            continue
        rows = torch.cat([state.extra[image], state.patches[image][keep[image]]])
        softmax = by_hand.weights(rows, queries=[0])[:, 0, 1:]
        assert_close(policy.seen.weights[image][:, keep[image]], softmax, **TOLERANCE)


@KEEPS
@pytest.mark.parametrize("gated", [False, True], ids=["hard", "gates"])
def test_the_record_says_which_result_counts(run, a_state, keep, gated):
    """The first image skips the attention, the second the MLP; both kept the same tokens."""
    said = parts(attend=(0, 1), feed=(1, 0), gated=gated)
    (record,) = run(a_state(1), selection_of(keep, said, gated), Execution()).history
    assert torch.equal(record.queries, keep & torch.tensor([[False], [True]]))
    assert torch.equal(record.mlp, keep & torch.tensor([[True], [False]]))
    assert torch.equal(record.selection.keep, keep)


# ------------------------------------------------------------------ heads that are not computed


def one_image(heads, attend=1):
    """A selection of three patch tokens of six in one image that runs these heads."""
    said = BlockParts(
        attend=torch.tensor([attend]).bool(),
        feed=torch.tensor([True]),
        heads=torch.tensor([heads]).bool(),
    )
    return Selection(keep=EQUAL[:1], parts=said)


def check_one_image(by_hand, state, after, heads):
    rows = torch.cat([state.extra[0], state.patches[0][EQUAL[0]]])
    expected = by_hand.fed(by_hand.attended(rows, heads=torch.tensor(heads).float()))
    assert_close(after.patches[0][EQUAL[0]], expected[state.num_extra :], **TOLERANCE)
    assert_close(after.extra[0], expected[: state.num_extra], **TOLERANCE)


@pytest.fixture
def widths(block):
    """The channels that go into the projection and come out of queries, keys and values."""
    found = {"qkv": [], "proj": []}
    block.attn.qkv.register_forward_hook(lambda *call: found["qkv"].append(call[2].shape[1]))
    block.attn.proj.register_forward_pre_hook(
        lambda _, rows: found["proj"].append(rows[0].shape[1])
    )
    return found


@pytest.mark.parametrize("num_extra", [0, 1])
@pytest.mark.parametrize("heads", [[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]], ids=str)
def test_one_image_computes_its_own_heads_alone(run, by_hand, a_state, widths, heads, num_extra):
    state = a_state(num_extra, batch=1)
    after = run(state, one_image(heads))
    # Eight channels a head.
    assert widths == {"qkv": [3 * 8 * sum(heads)], "proj": [8 * sum(heads)]}
    check_one_image(by_hand, state, after, heads)
    assert after.history[0].heads == sum(heads)


@pytest.mark.parametrize("num_extra", [0, 1])
def test_without_a_head_the_bias_is_left(run, block, a_state, widths, num_extra):
    state = a_state(num_extra, batch=1)
    after = run(state, one_image([0, 0, 0]))
    assert widths == {"qkv": [], "proj": []} and after.history[0].heads == 0
    rows = torch.cat([state.extra[0], state.patches[0][EQUAL[0]]]) + block.attn.proj.bias
    expected = rows + block.mlp(block.norm2(rows))
    assert_close(after.patches[0][EQUAL[0]], expected[num_extra:], **TOLERANCE)


@pytest.mark.parametrize(
    ("heads", "attend", "computed"),
    [
        ([[1, 0, 0], [1, 0, 0]], (1, 1), 1),
        ([[1, 0, 0], [0, 0, 1]], (1, 1), 2),
        ([[1, 1, 0], [0, 0, 1]], (1, 1), 3),
        ([[1, 1, 0], [0, 0, 1]], (0, 1), 1),
        ([[0, 0, 0], [0, 0, 0]], (1, 1), 0),
        ([[1, 1, 0], [0, 0, 0]], (0, 1), 0),
    ],
)
def test_above_one_image_the_heads_of_any_are_computed(
    run, by_hand, a_state, heads, attend, computed
):
    said, state = parts(attend=attend, heads=heads), a_state(1)
    after = run(state, selection_of(RAGGED, said))
    assert after.history[0].heads == computed
    for image in range(2):
        kept = RAGGED[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        expected = expected_rows(by_hand, rows, said, image)
        assert_close(after.patches[image][kept], expected[1:], **TOLERANCE)


@pytest.mark.parametrize(
    ("execution", "gated"),
    [(Execution(Masked()), False), (Execution(Padded(5)), False), (Execution(), True)],
    ids=["masked", "padded", "gates"],
)
def test_all_heads_are_computed_where_shapes_or_gates_ask_for_it(run, a_state, execution, gated):
    said = parts(heads=[[1, 0, 0], [1, 0, 0]], gated=gated)
    assert run(a_state(1), selection_of(RAGGED, said, gated), execution).history[0].heads is None


@pytest.mark.parametrize("heads", [[1, 0, 1], [0, 0, 0], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("when", ["looks", "looks_after"])
def test_a_look_sees_all_heads(run, by_hand, a_state, heads, when):
    policy, state = Deciding(one_image(heads), **{when: True}), a_state(1, batch=1)
    after = run(state, policy)
    check_one_image(by_hand, state, after, heads)
    rows = torch.cat([state.extra[0], state.patches[0][EQUAL[0]]])
    softmax = by_hand.weights(rows, queries=[0])[:, 0, 1:]
    assert_close(policy.seen.weights[0][:, EQUAL[0]], softmax, **TOLERANCE)
    # All keys are there before the attention, and serve it; or they are made for the look alone.
    record = after.history[0]
    assert record.heads == (None if when == "looks" else sum(heads))
    assert record.keys_again == (when == "looks_after" and sum(heads) < 3)


def test_heads_may_be_decided_when_keys_are_there(run, by_hand, a_state, widths):
    policy = Deciding(replace(one_image([1, 1, 1]), parts=None), before=one_image([0, 1, 0]).parts)
    state = a_state(1, batch=1)
    after = run(state, policy)
    assert widths["proj"] == [8]
    check_one_image(by_hand, state, after, [0, 1, 0])


def test_no_attention_no_heads(run, by_hand, a_state, widths):
    state = a_state(1, batch=1)
    after = run(state, one_image([1, 0, 1], attend=0))
    assert widths == {"qkv": [], "proj": []} and after.history[0].rows.keys == (0,)
    rows = by_hand.fed(torch.cat([state.extra[0], state.patches[0][EQUAL[0]]]))
    assert_close(after.patches[0][EQUAL[0]], rows[1:], **TOLERANCE)


def test_skipped_heads_pass_a_gradient_to_the_others(run, block, a_state):
    """Of a hard choice, as in fine-tuning a network whose decisions are frozen."""
    run(a_state(1, batch=1), one_image([1, 0, 1])).tokens.square().sum().backward()
    by_head = block.attn.qkv.weight.grad.view(3, 3, 8, 24).abs().sum(dim=(2, 3))
    assert by_head[:, [0, 2]].all() and not by_head[:, 1].any()
    assert not block.attn.proj.weight.grad.view(24, 3, 8)[:, 1].any()
