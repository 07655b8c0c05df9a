"""For tests of policies: views by hand, records by hand, and the way to play a record again.

B images, N patch tokens, E extra tokens, L blocks.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svit_det.policies import TaskLosses, TrunkShape
from svit_det.policies.svit import SViT
from svit_det.tokens import (
    BlockRecord,
    ClassAttention,
    PassRecord,
    RowCounts,
    TokenGrid,
    TokenState,
)
from svit_det.vit import Execution, Masked, Packed

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@dataclass
class FakeView:
    """A BlockView that says what a test tells it, and nothing that it was not told."""

    layer: int = 0
    last: bool = False
    candidates: Tensor | None = None
    attention: ClassAttention | None = None
    to_all: ClassAttention | None = None
    norms: Tensor | None = None
    after: TokenState | None = None

    def normed(self, state):
        return state.patches

    def class_attention(self):
        assert self.attention is not None, "nobody was to look at the class token"
        return self.attention

    def class_attention_to_all(self):
        assert self.to_all is not None, "nobody was to look at all tokens"
        return self.to_all

    def value_norms(self):
        assert self.norms is not None, "nobody was to look at the values"
        return self.norms

    def attended(self):
        assert self.after is not None, "nobody was to change tokens here"
        return self.after


@pytest.fixture
def a_view():
    """Factory: what a policy may look at, `a_view(layer, candidates=, attention=, ...)`."""
    return FakeView


@pytest.fixture
def a_state():
    """Factory: the state of `num_images` images with random tokens of 24 channels in one line."""

    def make(num_patches=4, num_extra=0, *, num_images=1, **fields):
        return TokenState(
            tokens=torch.randn(num_images, num_extra + num_patches, 24),
            num_extra=num_extra,
            grid=TokenGrid.of_tokens(1, num_patches),
            class_token=num_extra > 0,
            **fields,
        )

    return make


@pytest.fixture
def svit():
    """Factory: a small SViT, two gates before blocks 1 and 3 of four."""

    def make(depth=4, **options):
        settings = {"layers": (1, 3), "keep_ratios": (0.7, 0.5)} | options
        return SViT(config=SViT.Config(**settings), shape=TrunkShape(24, depth, 3)).eval()

    return make


@pytest.fixture
def ablated():
    """Factory: an SViT with gates before blocks 3, 6 and 9, as the ablations are configured."""

    def make(**options):
        settings = {"layers": (3, 6, 9), "keep_ratios": (0.7, 0.49, 0.343)} | options
        return SViT(config=SViT.Config(**settings), shape=TrunkShape(24, 12, 3))

    return make


def recorded(selection, size=None):
    """The record of a block that did what `selection` says, without extra tokens."""
    keep = selection.keep
    counts = tuple(keep.sum(dim=1).tolist())
    return BlockRecord(
        selection=selection,
        keys=keep,
        queries=keep,
        mlp=keep,
        rows=RowCounts(counts, counts, counts),
        size=keep.shape[1] if size is None else size,
    )


@pytest.fixture
def a_record():
    """Factory: the record of a block, `a_record(selection)`."""
    return recorded


@pytest.fixture
def a_pass():
    """Factory: the record of a pass from the selections of its blocks, `a_pass(*selections)`."""

    def make(*selections):
        num_images, num_patches = selections[0].keep.shape
        return PassRecord(
            blocks=tuple(recorded(each) for each in selections),
            grid=TokenGrid.of_tokens(1, num_patches),
            notes={},
            tokens=torch.zeros(num_images, num_patches, 24),
        )

    return make


@pytest.fixture
def pass_of():
    """The record of the pass that ended in a state, `pass_of(trunk, state)`."""
    return lambda trunk, state: PassRecord.of(state, trunk.read_map(state))


@pytest.fixture
def no_task():
    """A task that said nothing."""
    return TaskLosses({})


@pytest.fixture
def losses_of(pass_of):
    """A task loss that every token matters to, plus what the policy adds to it."""

    def losses(trunk, state):
        # Random weights: the sum of a normalised vector would have no gradient.
        task = (state.patches * torch.randn_like(state.patches)).mean()
        record = pass_of(trunk, state)
        return task + sum(trunk.policy.losses(record, TaskLosses({"loss_task": task})).values())

    return losses


class Counting:
    """An executor that counts the rows of each image wherever their number was promised."""

    def __init__(self, executor):
        self.executor, self.blends, self.promises = executor, executor.blends, 0

    def enter(self, layer, state, selection):
        if selection.total is not None:
            rows = selection.mask(state.presence()).sum(dim=1).tolist()
            assert rows == [selection.total] * len(rows), f"block {layer}"
            self.promises += 1
        return self.executor.enter(layer, state, selection)


@pytest.fixture
def counted_execution():
    """Factory: an `Execution` under which a broken promise shows, `counted_execution()`."""
    return lambda: Execution(hard=Counting(Packed()), soft=Counting(Masked()))


# ------------------------------------------------------------------ playing a record again


@pytest.fixture
def replay():
    """For `forced`: the selections of a history once more, `gated` or as they are.

    Where the choice of parts is gated too, each of them is a gate as well.
    """

    def of(history, *, gated=False):
        def change(layer, stage, selection):
            then = history[layer]
            if selection.parts is not None:  # the keys are without the images that do not attend
                keep = then.selection.keep
            else:
                keep = then.keys if stage == "enter" else then.mlp
            extra = then.selection.extra
            if extra is not None:  # decided by a gate, in the same way in every executor
                extra_gate = extra.float() if gated else None
                selection = replace(selection, extra=extra, extra_gate=extra_gate)
            if not gated:
                return replace(selection, keep=keep, gate=None)
            parts = selection.parts
            if parts is not None:
                parts = replace(
                    parts, **{name: value.float() for name, value in vars(parts).items()}
                )
            return replace(selection, keep=keep, gate=keep.float(), total=None, parts=parts)

        return change

    return of


@pytest.fixture
def same_history():
    """Asserts that two histories kept the same tokens everywhere, `same_history(one, two)`."""

    def check(history, other):
        assert len(history) == len(other)
        for one, two in zip(history, other, strict=True):
            assert torch.equal(one.selection.keep, two.selection.keep)
            assert torch.equal(one.took_part, two.took_part)
            extra, other_extra = one.selection.extra, two.selection.extra
            assert (extra is None) == (other_extra is None)
            assert extra is None or torch.equal(extra, other_extra)

    return check


@pytest.fixture
def same_outcome(same_history):
    """Asserts that two passes came to the same tokens, to 1e-5, by the same selections."""

    def check(state, other):
        same_history(state.history, other.history)
        assert_close(state.patches, other.patches, **TOLERANCE)
        # Where counts are unknown, an extra token may be there that no image has.
        extra, others = (each.extra[each.presence()] for each in (state, other))
        assert_close(extra, others, **TOLERANCE)
        for one, two in zip(state.history, other.history, strict=True):
            scores = (one.selection.score, two.selection.score)
            # A policy that knows that nothing is to be dropped need not look.
            if all(score is not None for score in scores):
                assert_close(*scores, **TOLERANCE)

    return check
