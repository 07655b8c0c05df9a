"""Executors: from a selection to rows. Executors differ in what they compute, not in the results.

B images, E extra tokens, S = E + N tokens of the buffer, K rows of each image.

`Packed` really skips: kept rows are gathered, run and scattered back, a different number for each
image. `Masked` computes every token, hides skipped tokens from the attention and blends by the
gate: the same values, with a gradient for the decision. `Padded` really skips too, with a number of
rows that is fixed beforehand, because exported and captured graphs need fixed shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.ranking import keep_highest
from svit_det.tokens import Selection, TokenState
from svit_det.vit.layout import Layout, Rows
from svit_det.vit.positions import FindPositions, by_nonzero


class Executor(Protocol):
    """Arranges the rows of a block for a selection."""

    blends: ClassVar[bool]
    """Whether the result passes a gradient to the selection's gate."""

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """The rows that block `layer` computes."""


def _everything(state: TokenState, selection: Selection) -> Rows:
    """Every token of every image; nothing is asked of the device."""
    num_images, size = state.tokens.shape[:2]
    return Rows(Layout((size,) * num_images, (num_images, size)), selection)


def _mask(state: TokenState, selection: Selection) -> Tensor:
    """(B, S) bool over the whole buffer; without extra tokens this is `keep` itself."""
    return selection.mask(state.presence()) if state.num_extra else selection.keep


@dataclass(frozen=True)
class Packed:
    """Only kept rows run. If the count is not known beforehand, the device is asked once.

    `find` finds the positions of kept tokens where the count is known; exported graphs need another
    way to find them.
    """

    find: FindPositions = field(default=by_nonzero, repr=False)
    blends: ClassVar[bool] = False

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """Gather the kept rows of each image, as many as there are."""
        num_images, size = state.tokens.shape[:2]
        if selection.total == size:
            return _everything(state, selection)
        mask = _mask(state, selection)
        if selection.total is not None:
            return Rows(_promised(mask, selection.total, self.find), selection)
        if torch.compiler.is_compiling() and num_images == 1:
            return _counted_in_the_graph(mask, selection)
        mask = mask.flatten()
        if num_images == 1:
            index = mask.nonzero().squeeze(1)
            if len(index) == size:
                return _everything(state, selection)
            return Rows(Layout((len(index),), (1, len(index)), index=index), selection)
        lengths = tuple(mask.view(num_images, size).sum(dim=1).tolist())
        if sum(lengths) == num_images * size:
            return _everything(state, selection)
        index = torch.nonzero_static(mask, size=sum(lengths)).squeeze(1)
        equal = all(length == lengths[0] for length in lengths)
        shape = (num_images, lengths[0]) if equal else None
        return Rows(Layout(lengths, shape, index=index), selection)


def _promised(mask: Tensor, total: int, find: FindPositions) -> Layout:
    """The layout of exactly `total` rows in each image; nothing has to be counted."""
    num_images = len(mask)
    return Layout((total,) * num_images, (num_images, total), index=find(mask, total))


def _counted_in_the_graph(mask: Tensor, selection: Selection) -> Rows:
    """The rows of a single image (1, S), counted when the graph runs; at least two rows.

    A graph cannot branch on a count, and attention without any row is undefined. Where nothing is
    kept, the first row therefore runs and its result is discarded. A single row runs twice, with
    the same result: after a block of one row OpenVINO 2026.4 computes the next block wrongly.
    """
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    runs = mask | (first & ~mask.any(dim=1, keepdim=True))
    index = runs.flatten().nonzero().squeeze(1)
    torch._check(index.shape[0] >= 1)
    torch._check(index.shape[0] <= mask.shape[1])
    index = torch.cat([index, index[: 2 - torch.sym_min(index.shape[0], 2)]])
    count = index.shape[0]
    torch._check(count >= 2)
    layout = Layout((count,), (1, count), index=index)
    return Rows(layout, selection, valid=mask.index_select(1, index))


@dataclass(frozen=True)
class Masked:
    """Every token is computed. Skipped tokens are no keys; the gate blends old and new values.

    Where a selection has no gate, `keep` serves as the gate.
    """

    blends: ClassVar[bool] = True

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """Hide the skipped tokens from the attention."""
        num_images, size = state.tokens.shape[:2]
        mask = _mask(state, selection)
        gate = selection.keep if selection.gate is None else selection.gate
        soft_keys = selection.soft_keys
        if state.num_extra:
            extra = mask[:, : state.num_extra]
            extra_gate = extra if selection.extra_gate is None else selection.extra_gate
            gate = torch.cat([extra_gate.to(gate.dtype), gate], dim=1)
            if soft_keys is not None:
                soft_keys = torch.cat([extra.to(soft_keys.dtype), soft_keys], dim=1)
        if soft_keys is not None:
            soft_keys = soft_keys * mask
        layout = Layout((size,) * num_images, (num_images, size), key_mask=_never_empty(mask))
        return Rows(layout, selection, valid=mask, gate=gate, soft_keys=soft_keys)


def _never_empty(mask: Tensor) -> Tensor:
    """(B, K) keys; an image without any key gets all, because a softmax over no key is 0 / 0.

    The result of such an image is discarded all the same, by a gate of 0 or by `Rows.valid`.
    """
    return mask | ~mask.any(dim=1, keepdim=True)


@dataclass(frozen=True)
class Padded:
    """A fixed number of rows runs, the same in every image: static shapes.

    Where the count is known beforehand, the number of rows (the room) is this count. Where the
    count depends on the data, `capacity` is the room: a number of rows as an int, extra tokens
    among them, or a share of the buffer as a float in (0, 1]; one value for all blocks, or one for
    each.

    If an image keeps fewer rows, other rows fill the room; no query attends to them, and their
    result is discarded. If an image keeps more rows, the block skips the surplus: the patch tokens
    with the lowest scores, or without scores the last ones. The record shows the skipped tokens. A
    later block may keep such a token, also under a policy that drops tokens, unless the wrapper
    Monotone is around the policy. Extra tokens always have room; a capacity below their number is
    refused.
    """

    capacity: int | float | Sequence[int | float] = 1.0
    find: FindPositions = field(default=by_nonzero, repr=False)
    blends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for value in self.capacity if isinstance(self.capacity, Sequence) else [self.capacity]:
            if (isinstance(value, float) and not 0 < value <= 1) or value <= 0:
                raise InputError(
                    f"{value} must be a number of rows from 1 up, or a share in (0, 1].",
                    setting="capacity",
                )

    def room(self, layer: int, size: int, num_extra: int) -> int:
        """K of block `layer` for a buffer of `size` tokens, `num_extra` extra tokens among them."""
        capacity = self.capacity
        if isinstance(capacity, Sequence):
            if layer >= len(capacity):
                raise InputError(
                    f"{len(capacity)} numbers do not reach block {layer}; give one for each block.",
                    setting="capacity",
                )
            capacity = capacity[layer]
        room = round(capacity * size) if isinstance(capacity, float) else capacity
        if room < max(num_extra, 1):
            raise InputError(
                f"{capacity} gives block {layer} room for {room} rows, but its {num_extra} extra "
                "tokens, the class token among them, always run; give it more.",
                setting="capacity",
            )
        return min(room, size)

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """Arrange the kept rows of each image in the block's room."""
        num_images, size = state.tokens.shape[:2]
        if selection.total == size:
            return _everything(state, selection)
        if selection.total is not None:
            mask = _mask(state, selection)
            return Rows(_promised(mask, selection.total, self.find), selection)
        room = self.room(layer, size, state.num_extra)
        if room < size:
            # Where an image lacks an extra token, its patch tokens get the room.
            extra = _mask(state, selection)[:, : state.num_extra].sum(dim=1)
            selection = _narrowed(selection, room - extra)
        mask = _mask(state, selection)
        # Kept rows come first, in the buffer's order; then other rows fill the room.
        order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :room]
        valid = mask.gather(1, order)
        first = size * torch.arange(num_images, device=order.device).unsqueeze(1)
        layout = Layout(
            (room,) * num_images,
            (num_images, room),
            key_mask=_never_empty(valid),
            index=(order + first).flatten(),
        )
        return Rows(layout, selection, valid=valid)


def _narrowed(selection: Selection, room: Tensor) -> Selection:
    """At most `room` (B,) patch tokens of each image: the highest scores, or the first in order."""
    keep, score = selection.keep, selection.score
    if score is None:
        fits = keep & (keep.cumsum(dim=1) <= room.unsqueeze(1))
    else:
        fits = keep_highest(score.detach(), keep, room)
    return replace(selection, keep=fits)


@dataclass(frozen=True)
class Execution:
    """The executors: `soft` for selections with a gate or soft keys, `hard` for all others."""

    hard: Executor = field(default_factory=Packed)
    soft: Executor = field(default_factory=Masked)

    def __post_init__(self) -> None:
        for name, executor in (("hard", self.hard), ("soft", self.soft)):
            if isinstance(executor, type) or not hasattr(executor, "enter"):
                raise InputError(
                    f"{executor!r} is no executor; give a Packed(), Masked() or Padded().",
                    setting=name,
                )
        if not self.soft.blends:
            raise InputError(
                f"{type(self.soft).__name__} passes no gradient to a gate, which the policies that "
                "train with one need; use Masked.",
                setting="soft",
            )

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """The rows of block `layer` for this selection."""
        is_soft = selection.gate is not None or selection.soft_keys is not None
        return (self.soft if is_soft else self.hard).enter(layer, state, selection)
