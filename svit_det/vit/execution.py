"""run_block: the only place where deciding and executing meet.

B images, N patch tokens, S = E + N tokens of the buffer, C channels, T rows of all images together.

Before the block the policy says which tokens the block keeps. The policy may narrow this selection
when the keys are computed, and once more after the attention; after the block it may change the
state. The executor turns selections into rows. Rows are moved only where the policy has changed
something.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.policies.base import TokenPolicy, in_the_graph
from svit_det.tokens import BlockParts, BlockRecord, RowCounts, Selection, TokenState
from svit_det.vit.executors import Execution
from svit_det.vit.layers import Block, per_image
from svit_det.vit.layout import Rows
from svit_det.vit.threads import on_few_threads
from svit_det.vit.view import BlockInProgress


@dataclass(frozen=True)
class _Begun:
    """A block before its attention."""

    state: TokenState
    selection: Selection
    """The policy's selection before the keys are known."""
    keys: Rows


@dataclass(frozen=True)
class _Half:
    """A block between its attention and its MLP."""

    selection: Selection
    """The policy's selection for the rows below."""
    rows: Rows
    """The rows that went through the attention."""
    new: Tensor | None
    """(T, C) values of the rows after the attention, not yet written back. None: no rows."""


def run_block(
    block: Block,
    policy: TokenPolicy,
    state: TokenState,
    *,
    layer: int,
    last: bool,
    execution: Execution,
) -> TokenState:
    """Run block `layer` on the tokens that `policy` keeps; the others stay as they are."""
    view = BlockInProgress(block, layer=layer, last=last)
    images, size = state.tokens.shape[:2]

    def begin() -> _Begun:
        entered, entering = policy.before_block(view, state)
        return _Begun(entered, entering, _enter(execution, layer, entered, entering, "attend"))

    def go_on() -> tuple[TokenState, BlockRecord]:
        done, record = _run(view, block, policy, execution, begun)
        return policy.after_block(view, begun.state, done, record), record

    begun = on_few_threads(begin, state.tokens, images * block.macs(size))
    macs = sum(block.macs(length) for length in begun.keys.layout.lengths)
    done, record = on_few_threads(go_on, state.tokens, macs)
    return replace(done, history=(*state.history, record))


def _run(
    view: BlockInProgress,
    block: Block,
    policy: TokenPolicy,
    execution: Execution,
    begun: _Begun,
) -> tuple[TokenState, BlockRecord]:
    """Both halves of the block, and what happened in them."""
    keys = begun.keys
    before, half = _attend(view, block, policy, execution, begun)
    after, going = before, half.selection
    if half.new is not None:
        view.close(before, half.rows, half.new)
        after, going = policy.after_attention(view, before, half.selection)
        _check_attended(policy, view, before, after)
    view.forget()
    done, fed = _feed(view, block, execution, before, after, half, going)
    if block.training and torch.is_grad_enabled() and (half.new is None or fed.empty):
        # The attention or the MLP has run on no row.
        done = replace(done, tokens=done.tokens + in_the_graph(block.parameters()))
    return done, BlockRecord(
        selection=_as_it_happened(going, half.rows, fed),
        keys=keys.selection.keep,
        queries=_counting(half.rows, half.selection.parts, "attend"),
        mlp=_counting(fed, going.parts, "feed"),
        rows=RowCounts(keys.layout.lengths, half.rows.layout.lengths, fed.layout.lengths),
        size=done.tokens.shape[1],
        looked=view.looked,
        looked_at_all=view.looked_at_all,
        own_class_query=view.own_class_query,
        joined=view.joined,
        asked_again=view.asked_again,
        heads=view.heads,
        keys_again=view.keys_again,
    )


def _attend(
    view: BlockInProgress,
    block: Block,
    policy: TokenPolicy,
    execution: Execution,
    begun: _Begun,
) -> tuple[TokenState, _Half]:
    """The attention half; the policy's `before_attention` is called once the keys are known."""
    entered, entering, keys = begun.state, begun.selection, begun.keys
    if keys.empty:
        return entered, _Half(entering, keys, None)
    tokens = keys.gather(entered.tokens)
    view.open(entered, keys, tokens)
    entering = _with_room(entering, keys)
    state, asking = policy.before_attention(view, entered, entering)
    if state.tokens is not entered.tokens:
        raise RuntimeError(
            f"{type(policy).__name__}.before_attention changed the tokens, whose keys are computed "
            "already; it may change its notes only."
        )
    if asking.soft_keys is not entering.soft_keys:
        raise RuntimeError(
            f"{type(policy).__name__}.before_attention changed the soft keys, which belong to the "
            "keys; set them in before_block."
        )
    queries = keys
    if not asking.same_rows(entering):
        queries = _enter(execution, view.layer, state, asking, "attend")
        tokens = queries.gather(state.tokens)
        asking = _with_room(asking, queries)
    branch = view.attend(queries, tokens)
    if asking.parts is not None and asking.parts.attend.is_floating_point():
        branch = branch * per_image(asking.parts.attend, queries.layout)
    return state, _Half(asking, queries, block.add(tokens, branch, queries.layout))


def _feed(
    view: BlockInProgress,
    block: Block,
    execution: Execution,
    before: TokenState,
    after: TokenState,
    half: _Half,
    going: Selection,
) -> tuple[TokenState, Rows]:
    """The MLP half. `after` is the policy's answer to the state `before` the attention."""
    unmoved = after.tokens is before.tokens
    if half.new is not None and view.was_written:
        unmoved = unmoved or after.tokens is view.attended().tokens
    if unmoved and going.parts is None and going.same_rows(half.selection):
        # The rows go on as they are, and are written back once, into the buffer that the block got.
        rows, tokens = half.rows, half.new
        if after.tokens is not before.tokens:
            after = replace(after, tokens=before.tokens)
        if tokens is None:
            return after, rows
    else:
        if unmoved and half.new is not None:
            after = replace(after, tokens=view.attended().tokens)
        rows = _enter(execution, view.layer, after, going, "feed")
        if rows.empty:
            return after, rows
        tokens = rows.gather(after.tokens)
    branch = block.mlp(block.norm2(tokens))
    if going.parts is not None and going.parts.feed.is_floating_point():
        branch = branch * per_image(going.parts.feed, rows.layout)
    tokens = block.add(tokens, branch, rows.layout)
    return replace(after, tokens=rows.scatter(after.tokens, tokens)), rows


def _enter(
    execution: Execution, layer: int, state: TokenState, selection: Selection, part: str
) -> Rows:
    """The rows of a selection, in the images that run this part of the block.

    Where the choice of parts is a gate, every image computes the part and the gate multiplies it.
    """
    if selection.parts is not None:
        images = getattr(selection.parts, part)
        if not images.is_floating_point():
            selection = selection.only_in(images, state.presence())
    return execution.enter(layer, state, selection)


def _with_room(said: Selection, attending: Rows) -> Selection:
    """The policy's selection without the tokens that the executor had no room for."""
    keep = attending.selection.keep
    if said.parts is not None and not said.parts.attend.is_floating_point():
        # An image that skips the attention may run the MLP.
        keep = keep | (said.keep & ~said.parts.attend.unsqueeze(1))
    return said if keep is said.keep else replace(said, keep=keep)


def _counting(rows: Rows, parts: BlockParts | None, part: str) -> Tensor:
    """(B, N) bool, patch tokens whose result of this part of the block counts."""
    keep = rows.selection.keep
    if parts is None:
        return keep
    images: Tensor = getattr(parts, part)
    # Where the choice is a gate, an image that skips the part is computed and multiplied by 0.
    return keep & (images > 0).unsqueeze(1) if images.is_floating_point() else keep


def _as_it_happened(going: Selection, attended: Rows, fed: Rows) -> Selection:
    """The policy's last selection, with `keep` cut down to what the executor had room for.

    The gate of a part does not change `keep`: the selection's own gate must stay equal to `keep`.
    """
    keep = fed.selection.keep
    if going.parts is not None:
        keep = attended.selection.keep | keep
    return going if keep is going.keep else replace(going, keep=keep, total=None)


def _check_attended(
    policy: TokenPolicy, view: BlockInProgress, before: TokenState, after: TokenState
) -> None:
    if after.tokens is not before.tokens and not view.was_written:
        raise RuntimeError(
            f"{type(policy).__name__}.after_attention changed tokens from before the attention; "
            "start from view.attended()."
        )
