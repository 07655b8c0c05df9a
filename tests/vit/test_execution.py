"""The two executors: really skipping, and computing everyone differentiably."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.tokens import Segments, Selection, TokenState
from svit_det.vit.execution import MaskedTokens, PackedTokens, enter, run_block

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
EXTRAS = pytest.mark.parametrize("num_extra", [0, 1, 2])


def a_state(num_extra=0, width=24, **fields):
    return TokenState(
        patches=torch.randn(2, 6, width),
        extra=torch.randn(2, num_extra, width),
        grid=(2, 3),
        **fields,
    )


def gated(keep):
    return Selection(keep=keep, gate=keep.float())


@pytest.fixture
def block(tiny_trunk):
    """One block of 24 channels and 3 heads."""
    return tiny_trunk(depth=1).blocks[0]


def run_alone(block, rows):
    """The block on the rows of one image, without any of our executors."""
    segments = Segments((len(rows),))
    rows = rows + block.attn(block.norm1(rows), segments)
    return rows + block.mlp(block.norm2(rows))


@pytest.fixture
def run(block, scripted):
    """Run the one block under a typed-out selection."""
    return lambda state, selection: run_block(block, 0, scripted([selection]), state)


def test_the_selection_picks_the_executor():
    assert isinstance(enter(a_state(), Selection(keep=SOME)), PackedTokens)
    assert isinstance(enter(a_state(), gated(SOME)), MaskedTokens)


@EXTRAS
@KEEPS
def test_packed_runs_what_is_kept_image_by_image(run, block, keep, num_extra):
    state = a_state(num_extra)
    after = run(state, Selection(keep=keep))
    for image in range(2):
        kept = keep[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        expected = run_alone(block, rows) if len(rows) else rows
        assert_close(after.extra[image], expected[:num_extra], **TOLERANCE)
        assert_close(after.patches[image][kept], expected[num_extra:], **TOLERANCE)
        assert torch.equal(after.patches[image][~kept], state.patches[image][~kept])


@EXTRAS
@KEEPS
def test_masked_equals_packed(run, keep, num_extra):
    state = a_state(num_extra)
    packed, masked = run(state, Selection(keep=keep)), run(state, gated(keep))
    assert_close(masked.patches, packed.patches, **TOLERANCE)
    assert_close(masked.extra, packed.extra, **TOLERANCE)
    assert torch.equal(masked.patches[~keep], state.patches[~keep])


@EXTRAS
def test_a_whole_selection_is_everyone(run, num_extra):
    state = a_state(num_extra)
    whole = run(state, Selection(keep=EVERYONE, whole=True))
    packed = run(state, Selection(keep=EVERYONE))
    assert_close(whole.patches, packed.patches, **TOLERANCE)
    assert_close(whole.extra, packed.extra, **TOLERANCE)


def test_a_whole_selection_is_not_looked_at():
    # `whole` is a promise: no index is made, and a keep that says otherwise goes unread.
    tokens = PackedTokens.enter(a_state(1), Selection(keep=NOBODY, whole=True))
    assert tokens.index is None
    assert tokens.segments.lengths == (7, 7)


@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0])
def test_the_gate_blends_new_and_old(gate):
    state = a_state(num_extra=1)
    tokens = MaskedTokens.enter(state, Selection(keep=EVERYONE, gate=torch.full((2, 6), gate)))
    new = torch.randn(14, 24)
    after = tokens.write_back(new)
    rows = new.unflatten(0, (2, 7))
    assert_close(after.patches, gate * rows[:, 1:] + (1 - gate) * state.patches)
    assert torch.equal(after.extra, rows[:, :1])  # extra tokens are always new


def test_the_gate_learns_how_new_and_old_differ():
    state = a_state()
    gate = SOME.float().requires_grad_()
    new = torch.randn(12, 24)
    MaskedTokens.enter(state, Selection(keep=SOME, gate=gate)).write_back(
        new
    ).patches.sum().backward()
    assert_close(gate.grad, (new.unflatten(0, (2, 6)) - state.patches).sum(dim=-1))


@KEEPS
@EXTRAS
def test_no_image_looks_at_nothing(keep, num_extra):
    # Fused attention turns an empty softmax into 0, other kernels into NaN, and 0 * NaN is NaN.
    mask = MaskedTokens.enter(a_state(num_extra), gated(keep)).segments.key_mask
    assert mask.any(dim=1).all()
    assert mask[:, :num_extra].all()
    some = keep.any(dim=1)
    assert torch.equal(mask[some][:, num_extra:], keep[some])


def test_extra_tokens_do_not_see_hidden_patches(run):
    state = a_state(num_extra=1)
    louder = replace(state, patches=torch.where(SOME.unsqueeze(-1), state.patches, 100.0))
    for selection in (Selection(keep=SOME), gated(SOME)):
        assert_close(run(louder, selection).extra, run(state, selection).extra, **TOLERANCE)


def test_the_block_is_not_called_for_no_rows(run, block):
    calls = []
    block.norm1.register_forward_hook(lambda *_: calls.append(1))
    state = a_state()
    after = run(state, Selection(keep=NOBODY))
    assert calls == []
    assert after.patches is state.patches
    assert len(after.trace) == 1


def test_the_trace_grows_by_what_was_selected(run):
    earlier = Selection(keep=EVERYONE, whole=True)
    selection = Selection(keep=SOME)
    after = run(a_state(trace=(earlier,)), selection)
    assert after.trace[0] is earlier
    assert torch.equal(after.trace[1].keep, SOME)
    assert after.trace[1].extra_counts is None


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_values_per_row_come_back_to_the_grid(masked):
    # Rows of image 0: extra, kept patches; masked: extra, all patches. Values count up from 10.
    selection = gated(SOME) if masked else Selection(keep=SOME)
    tokens = enter(a_state(num_extra=1), selection)
    values = 10 + torch.arange(float(len(tokens.rows())))
    patches, extra = tokens.to_grid(torch.stack([values, -values], dim=1))
    expected, beside = (
        ([[11, 0, 0, 14, 15, 0], [0, 0, 20, 0, 0, 0]], [[10], [17]])
        if masked
        else ([[11, 0, 0, 12, 13, 0], [0, 0, 15, 0, 0, 0]], [[10], [14]])
    )
    assert patches[..., 0].tolist() == expected
    assert extra[..., 0].tolist() == beside
    assert torch.equal(patches[..., 1], -patches[..., 0])


def test_values_of_a_whole_selection_come_back_without_an_index():
    tokens = enter(a_state(num_extra=1), Selection(keep=EVERYONE, whole=True))
    patches, extra = tokens.to_grid(torch.arange(14.0).unsqueeze(1))
    assert patches.squeeze(-1).tolist() == [[1, 2, 3, 4, 5, 6], [8, 9, 10, 11, 12, 13]]
    assert extra.squeeze(-1).tolist() == [[0], [7]]


@KEEPS
@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_an_extra_token_that_an_image_lacks_takes_no_part(run, keep, masked):
    """The second image lacks the second extra token: it computes what it would without a place."""
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    state = a_state(num_extra=2, present=present)
    selection = gated(keep) if masked else Selection(keep=keep)
    after = run(state, selection)
    for image in range(2):
        own = replace(
            state,
            patches=state.patches[image : image + 1],
            extra=state.extra[image : image + 1, : 2 - image],
            present=None,
        )
        alone = run(own, Selection(keep=keep[image : image + 1]))
        assert_close(after.patches[image], alone.patches[0], **TOLERANCE)
        assert_close(after.extra[image, : 2 - image], alone.extra[0], **TOLERANCE)
    assert torch.equal(after.extra[1, 1], state.extra[1, 1])
    assert after.trace[0].extra_counts.tolist() == [[2, 2], [1, 1]]


def test_everyone_is_not_taken_at_its_word_where_an_extra_token_is_missing(run):
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    state = a_state(num_extra=2, present=present)
    whole = run(state, Selection(keep=EVERYONE, whole=True))
    assert_close(whole.patches, run(state, Selection(keep=EVERYONE)).patches, **TOLERANCE)


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_the_policy_hears_what_the_class_token_saw(block, scripted, masked):
    heard = []

    class Listener(scripted):
        attention_layers = frozenset({0})

        def after_attention(self, layer, entered, attended, selection, attention):
            heard.append((entered, attended, attention))
            return attended, selection

    state = a_state(num_extra=1)
    selection = gated(SOME) if masked else Selection(keep=SOME)
    run_block(block, 0, Listener([selection]), state)
    ((entered, attended, attention),) = heard
    assert entered is state
    assert torch.equal(attended.patches[~SOME], state.patches[~SOME])
    for image in range(2):
        kept = SOME[image]
        rows = block.norm1(torch.cat([state.extra[image], state.patches[image][kept]]))
        query, key, value = block.attn.qkv(rows).unflatten(1, (3, 3, 8)).unbind(1)
        softmax = (torch.einsum("hd,nhd->hn", query[0], key) / 8**0.5).softmax(dim=1)
        assert_close(attention.weights[image][:, kept], softmax[:, 1:], **TOLERANCE)
        assert not attention.weights[image][:, ~kept].any()
        assert_close(
            attention.value_norm[image][kept], value[1:].flatten(1).norm(dim=1), **TOLERANCE
        )
        assert not attention.value_norm[image][~kept].any()
        attended_rows = torch.cat([state.extra[image], state.patches[image][kept]])
        mixed = attended_rows + block.attn(rows, Segments((len(rows),)))
        assert_close(attended.extra[image], mixed[:1], **TOLERANCE)
        assert_close(attended.patches[image][kept], mixed[1:], **TOLERANCE)


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_fewer_may_go_on_to_the_mlp(block, scripted, masked):
    fewer = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()

    class DropsSome(scripted):
        attention_layers = frozenset({0})

        def after_attention(self, layer, entered, attended, selection, attention):
            gate = fewer.float() if masked else None
            return attended, replace(selection, keep=fewer, gate=gate)

    state = a_state(num_extra=1)
    selection = gated(SOME) if masked else Selection(keep=SOME)
    after = run_block(block, 0, DropsSome([selection]), state)
    assert torch.equal(after.trace[0].keep, fewer)
    assert torch.equal(after.trace[0].entered, SOME)
    for image in range(2):
        kept = SOME[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        attended = rows + block.attn(block.norm1(rows), Segments((len(rows),)))
        finished = attended + block.mlp(block.norm2(attended))
        on = fewer[image][kept]
        assert_close(after.extra[image], finished[:1], **TOLERANCE)
        assert_close(after.patches[image][kept][on], finished[1:][on], **TOLERANCE)
        assert_close(after.patches[image][kept][~on], attended[1:][~on], **TOLERANCE)
        assert torch.equal(after.patches[image][~kept], state.patches[image][~kept])


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
@pytest.mark.parametrize("whole", [False, True])
def test_fewer_may_ask(block, scripted, masked, whole):
    """Dropped before the attention: still a key, but not a query, and as it was afterwards."""
    entering = EVERYONE if whole else SOME
    fewer = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()

    class AsksFewer(scripted):
        score_layers = frozenset({0})

        def before_attention(self, layer, entered, selection, attention):
            gate = fewer.float() if masked else None
            return replace(entered, memory="seen"), Selection(keep=fewer, gate=gate)

    state = a_state(num_extra=1)
    selection = gated(entering) if masked else Selection(keep=entering, whole=whole)
    after = run_block(block, 0, AsksFewer([selection]), state)
    assert after.memory == "seen"
    assert torch.equal(after.trace[0].keep, fewer)
    assert torch.equal(after.trace[0].entered, entering)
    for image in range(2):
        kept = entering[image]
        finished = run_alone(block, torch.cat([state.extra[image], state.patches[image][kept]]))
        on = fewer[image][kept]
        assert_close(after.extra[image], finished[:1], **TOLERANCE)
        assert_close(after.patches[image][kept][on], finished[1:][on], **TOLERANCE)
        assert torch.equal(after.patches[image][~fewer[image]], state.patches[image][~fewer[image]])


def test_rows_that_nobody_asks_for_are_not_computed(block, scripted):
    """Of six patches and a class token two ask: three rows reach projection and MLP."""
    fewer = torch.tensor([[1, 0, 0, 0, 1, 0]]).bool()
    seen = {}
    for name in ("proj", "fc1"):
        module = block.attn.proj if name == "proj" else block.mlp.fc1
        module.register_forward_hook(
            lambda _m, inputs, _o, name=name: seen.update({name: len(inputs[0])})
        )

    class AsksFewer(scripted):
        score_layers = frozenset({0})

        def before_attention(self, layer, entered, selection, attention):
            return entered, Selection(keep=fewer)

    state = TokenState(patches=torch.randn(1, 6, 24), extra=torch.randn(1, 1, 24), grid=(2, 3))
    run_block(block, 0, AsksFewer([Selection(keep=~fewer | fewer, whole=True)]), state)
    assert seen == {"proj": 3, "fc1": 3}


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_half_precision_inside_a_block_stays_inside(run, masked):
    state = a_state(num_extra=1)
    selection = gated(SOME) if masked else Selection(keep=SOME)
    exact = run(state, selection)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(state, selection)
    assert rounded.patches.dtype == rounded.extra.dtype == torch.float32
    assert torch.equal(rounded.patches[~SOME], state.patches[~SOME])
    assert not torch.equal(rounded.patches, exact.patches)
    # bfloat16 has 8 bits: products of this size are off by some hundredths.
    assert_close(rounded.patches, exact.patches, atol=0.1, rtol=0.05)


def test_stochastic_depth_drops_the_same_branches_masked_and_packed(tiny_trunk, scripted):
    block = tiny_trunk(depth=2, drop_path_rate=0.5).blocks[1].train()
    state = a_state(num_extra=1)
    for seed in range(6):
        runs = []
        for selection in (Selection(keep=SOME), gated(SOME)):
            torch.manual_seed(seed)
            runs.append(run_block(block, 0, scripted([selection]), state))
        assert_close(runs[0].patches, runs[1].patches, **TOLERANCE)
        assert_close(runs[0].extra, runs[1].extra, **TOLERANCE)


def test_either_branch_is_dropped_by_itself(tiny_trunk, scripted):
    block = tiny_trunk(depth=2, drop_path_rate=0.5).blocks[1].train()
    state = replace(a_state(), patches=torch.randn(1, 6, 24), extra=torch.zeros(1, 0, 24))
    old, segments = state.patches[0], Segments((6,))

    def attended(rows):
        return rows + 2 * block.attn(block.norm1(rows), segments)  # 1 of 2 survives

    def fed(rows):
        return rows + 2 * block.mlp(block.norm2(rows))

    ways = [old, attended(old), fed(old), fed(attended(old))]
    came = set()
    for _ in range(40):
        new = run_block(block, 0, scripted([None]), state).patches[0]
        came.add([torch.allclose(new, way, atol=1e-5) for way in ways].index(True))
    assert came == {0, 1, 2, 3}


@pytest.mark.parametrize("selection", [Selection(keep=EVERYONE, whole=True), gated(EVERYONE)])
def test_rows_in_half_precision_are_written_back_in_the_dtype_of_the_map(selection):
    tokens = enter(a_state(num_extra=1), selection)
    after = tokens.write_back(tokens.rows().half())
    assert after.patches.dtype == after.extra.dtype == torch.float32
