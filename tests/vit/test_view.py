"""What a policy looks at while a block runs, and that nothing else is computed."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from svit_det.policies import TokenPolicy
from svit_det.tokens import Selection, everyone
from svit_det.vit import Execution, Masked, Packed, Padded

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SOME = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]).bool()
FEWER = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()


class Looking(TokenPolicy):
    """Enters with a selection and calls back at each moment of the block.

    `before` and `after` take (view, state, selection) and return what the hook returns.
    """

    def __init__(self, selection=None, *, begin=None, before=None, after=None):
        super().__init__()
        self.selection, self.begin, self.before, self.after = selection, begin, before, after

    def before_block(self, view, state):
        if self.begin is not None:
            state = self.begin(view, state) or state
        return state, self.selection or everyone(state)

    def before_attention(self, view, state, selection):
        return self.before(view, state, selection) if self.before else (state, selection)

    def after_attention(self, view, state, selection):
        return self.after(view, state, selection) if self.after else (state, selection)


def look(view, state, selection):
    view.class_attention()
    return state, selection


def look_and_narrow(view, state, selection):
    view.class_attention()
    return state, Selection(keep=FEWER)


def weigh_and_narrow(view, state, selection):
    view.value_norms()
    return state, Selection(keep=FEWER)


# ------------------------------------------------------------------ what is computed


@pytest.fixture
def calls(block):
    """Rows of each call by module; of qkv (rows, first part, part after the last)."""
    seen = {"norm1": [], "qkv": [], "proj": [], "norm2": [], "fc1": []}
    modules = {
        "norm1": block.norm1,
        "qkv": block.attn.qkv,
        "proj": block.attn.proj,
        "norm2": block.norm2,
        "fc1": block.mlp.fc1,
    }
    for name, module in modules.items():

        def write_down(_module, inputs, _output, name=name):
            rows = inputs[0].shape[:-1].numel()
            seen[name].append((rows, *inputs[1:]) if name == "qkv" else rows)

        module.register_forward_hook(write_down)
    return seen


@pytest.fixture
def apart(monkeypatch):
    """Blocks as large as they have to be for queries to be projected apart from other parts."""
    monkeypatch.setattr("svit_det.vit.view.JOINED_MACS", 0)


def test_a_block_at_which_nobody_looks_projects_once(run, a_state, calls):
    run(a_state(1), Selection(keep=SOME))
    assert calls == {"norm1": [6], "qkv": [(6, 0, 3)], "proj": [6], "norm2": [6], "fc1": [6]}


def test_looking_after_the_attention_projects_nothing_more(run, a_state, calls):
    after = run(a_state(1), Looking(Selection(keep=SOME), after=look))
    assert calls == {"norm1": [6], "qkv": [(6, 0, 3)], "proj": [6], "norm2": [6], "fc1": [6]}
    assert after.history[0].looked and not after.history[0].own_class_query


def test_looking_twice_projects_once(run, a_state, calls, apart):
    def twice(view, state, selection):
        first, second = view.class_attention(), view.class_attention()
        assert torch.equal(first.weights, second.weights)
        return state, selection

    run(a_state(1), Looking(before=twice, after=twice))
    # Keys and values, the class tokens' queries, and then all queries.
    assert calls["qkv"] == [(14, 1, 3), (2, 0, 1), (14, 0, 1)]


def test_rows_that_are_no_queries_are_not_computed(run, a_state, calls, apart):
    """Of 14 tokens in two images 4 attend: 2 patches and 2 class tokens."""
    after = run(a_state(1), Looking(before=look_and_narrow))
    assert calls["qkv"] == [(14, 1, 3), (2, 0, 1), (4, 0, 1)]
    assert (calls["proj"], calls["norm2"], calls["fc1"]) == ([4], [4], [4])
    assert after.history[0].looked and after.history[0].own_class_query


def test_values_are_looked_at_without_a_query(run, a_state, calls, apart):
    after = run(a_state(1), Looking(before=weigh_and_narrow))
    assert calls["qkv"] == [(14, 1, 3), (4, 0, 1)]
    assert not after.history[0].looked


@pytest.mark.parametrize(
    "begin", [everyone, lambda state: Selection(keep=SOME)], ids=("all", "some")
)
@pytest.mark.parametrize("looking", [look_and_narrow, weigh_and_narrow])
def test_a_small_block_projects_everything_at_once(
    run, a_state, calls, monkeypatch, looking, begin
):
    """The rows that attend take their queries out of those of all keys: nothing else changes."""
    state = a_state(1)
    together = run(state, Looking(begin(state), before=looking))
    rows = 14 if begin is everyone else 6
    assert calls["qkv"] == [(rows, 0, 3)]
    assert calls["norm1"] == [rows]
    assert together.history[0].joined and not together.history[0].own_class_query
    monkeypatch.setattr("svit_det.vit.view.JOINED_MACS", 0)
    alone = run(state, Looking(begin(state), before=looking))
    assert not alone.history[0].joined
    assert_close(together.tokens, alone.tokens, **TOLERANCE)


def test_a_row_that_attends_must_be_a_key(run, a_state):
    """Taking another row's query would be a wrong result without a word."""

    def widen(view, state, selection):
        view.value_norms()
        return state, Selection(keep=SOME)

    with pytest.raises(RuntimeError, match="no key"):
        run(a_state(1), Looking(Selection(keep=FEWER), before=widen))


def test_narrowing_without_looking(run, a_state, calls, apart):
    run(a_state(1), Looking(before=lambda view, state, selection: (state, Selection(keep=FEWER))))
    assert sorted(calls["qkv"]) == [(4, 0, 1), (14, 1, 3)]


@pytest.mark.parametrize("executor", [Packed(), Masked(), Padded(5)], ids=repr)
def test_normed_tokens_are_reused_for_the_rows_that_run(run, a_state, calls, executor):
    state = a_state(1)

    def ask_twice(view, state):
        assert torch.equal(view.normed(state), view.normed(state))

    after = run(state, Looking(Selection(keep=SOME), begin=ask_twice), Execution(executor))
    assert calls["norm1"] == [14]
    calls["norm1"].clear()
    plain = run(state, Selection(keep=SOME), Execution(executor))
    assert calls["norm1"] == [{Packed: 6, Masked: 14, Padded: 10}[type(executor)]]
    assert_close(after.tokens, plain.tokens, **TOLERANCE)


@pytest.mark.parametrize("asks_again", [False, True])
def test_tokens_changed_after_they_were_normed_are_normed_again(
    run, by_hand, a_state, block, asks_again
):
    def begin(view, state):
        assert_close(view.normed(state), block.norm1(state.patches))
        changed = state.with_patches(state.patches.flip(1))
        if asks_again:
            assert_close(view.normed(changed), block.norm1(changed.patches))
        return changed

    state = a_state(1)
    after = run(state, Looking(begin=begin))
    rows = torch.cat([state.extra[0], state.patches[0].flip(0)])
    assert_close(after.tokens[0], by_hand.finished(rows), **TOLERANCE)


class Operations(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


MOVING = {"index_select", "index_copy", "nonzero", "nonzero_static", "sum", "lerp", "argsort"}


def operations(run, *args):
    with Operations() as mode:
        run(*args)
    return mode.counts


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_policy_that_changes_no_row_moves_no_row(run, a_state, moment, masked):
    """Writing down a score, notes or costs asks the device nothing (fault 6)."""
    score = torch.zeros(2, 6)

    def write_down(view, state, selection):
        return replace(state, notes={"seen": 1}), replace(selection, score=score, macs=3)

    state = a_state(1)
    selection = Selection(keep=SOME, gate=SOME.float() if masked else None)
    silent = operations(run, state, Looking(selection))
    assert operations(run, state, Looking(selection, **{moment: write_down})) == silent
    looking = operations(run, state, Looking(selection, after=look))
    assert {name: looking[name] for name in MOVING - {"index_copy"}} == {
        name: silent[name] for name in MOVING - {"index_copy"}
    }
    # What it looked at is spread over the buffer, which masked rows are already.
    assert looking["index_copy"] - silent["index_copy"] == (0 if masked else 1)


def test_rows_are_written_after_the_attention_only_when_somebody_asks(run, a_state):
    def ask(view, state, selection):
        assert view.attended() is view.attended()
        return state, selection

    def ask_and_return(view, state, selection):
        return view.attended(), selection

    state, selection = a_state(1), Selection(keep=SOME)
    assert operations(run, state, Looking(selection))["index_copy"] == 1
    for after in (ask, ask_and_return):
        assert operations(run, state, Looking(selection, after=after))["index_copy"] == 2
        asked = run(state, Looking(selection, after=after))
        assert torch.equal(asked.tokens, run(state, selection).tokens)


# ------------------------------------------------------------------ what is seen


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("executor", "masked"),
    [(Packed(), False), (Masked(), False), (Padded(5), False), (Packed(), True)],
    ids=["packed", "masked", "padded", "gated"],
)
def test_what_a_policy_sees(run, by_hand, a_state, moment, executor, masked):
    heard = []

    def listen(view, state, selection):
        heard.append((state, view.class_attention(), view.value_norms()))
        return state, selection

    state = a_state(num_extra=1)
    selection = Selection(keep=SOME, gate=SOME.float() if masked else None)
    run(state, Looking(selection, **{moment: listen}), Execution(executor))
    ((given, attention, value_norms),) = heard
    assert given.tokens is state.tokens
    assert not attention.weights.transpose(1, 2)[~SOME].any() and not value_norms[~SOME].any()
    for image in range(2):
        kept = SOME[image]
        rows = torch.cat([state.extra[image], state.patches[image][kept]])
        softmax = by_hand.weights(rows, queries=[0])[:, 0]
        assert_close(attention.weights[image][:, kept], softmax[:, 1:], **TOLERANCE)
        assert_close(attention.extra_weights[image], softmax[:, :1], **TOLERANCE)
        norms = by_hand.projected(rows)[2][1:].flatten(1).norm(dim=1)
        assert_close(value_norms[image][kept], norms, **TOLERANCE)


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_the_state_after_the_attention(run, by_hand, a_state, masked):
    heard = []

    def listen(view, state, selection):
        heard.append(view.attended())
        return state, selection

    state = a_state(num_extra=1)
    selection = Selection(keep=SOME, gate=SOME.float() if masked else None)
    run(state, Looking(selection, after=listen))
    (attended,) = heard
    assert torch.equal(attended.patches[~SOME], state.patches[~SOME])
    for image in range(2):
        kept = SOME[image]
        mixed = by_hand.attended(torch.cat([state.extra[image], state.patches[image][kept]]))
        assert_close(attended.extra[image], mixed[:1], **TOLERANCE)
        assert_close(attended.patches[image][kept], mixed[1:], **TOLERANCE)


# ------------------------------------------------------------------ what cannot be asked


@pytest.mark.parametrize("question", ["class_attention", "value_norms"])
def test_asking_for_keys_before_the_block(run, a_state, question):
    policy = Looking(begin=lambda view, state: getattr(view, question)())
    with pytest.raises(RuntimeError, match="from before_attention to after_attention"):
        run(a_state(1), policy)


def test_asking_for_the_attended_tokens_too_early(run, a_state):
    for moment in (
        {"begin": lambda view, state: view.attended()},
        {"before": lambda view, state, selection: (view.attended(), selection)},
    ):
        with pytest.raises(RuntimeError, match="ask in after_attention"):
            run(a_state(1), Looking(**moment))


def test_asking_for_a_class_token_that_is_not_there(run, a_state):
    with pytest.raises(RuntimeError, match="say needs_class_token"):
        run(a_state(0), Looking(before=look))
    # An extra token of another kind is none.
    with pytest.raises(RuntimeError, match="say needs_class_token"):
        run(replace(a_state(1), class_token=False), Looking(after=look))


@pytest.mark.parametrize(
    ("moment", "said"), [("before", "may change its notes only"), ("after", r"start from view\.")]
)
def test_tokens_of_another_moment_are_not_changed(run, a_state, moment, said):
    def change(view, state, selection):
        return state.with_patches(2 * state.patches), selection

    with pytest.raises(RuntimeError, match=rf"Looking\.{moment}_attention changed .*{said}"):
        run(a_state(1), Looking(**{moment: change}))
