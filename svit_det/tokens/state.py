"""The vocabulary, and TokenState: what travels from block to block.

Shape shorthand, used in every module of this package:

    B images    H, W token grid    N = H * W patch tokens    E extra tokens    S = E + N
    C channels    L blocks    h heads    T rows of all images together

Glossary. Each word has this one meaning in code, docs and JSON:

    token           one vector of C channels that travels through the blocks
    patch token     a token of the H x W grid; "patch" for short
    extra token     a token off the grid: class token, fused, package or representative token
    class token     the extra token that reads the whole image; the first one, where there is one
    present         said of an extra token that an image has; some images may lack it
    buffer          (B, S, C): every token of every image, the extra tokens first
    block           attention, then MLP, each with a residual; blocks count from 0
    keep            a block keeps a token when it processes it to its end
    skip            a block skips a token that it does not keep; the token stays in the buffer
    drop            a policy drops a token when no later block will keep it
    reactivate      a block reactivates a token that the block before skipped
    row             a token that is really computed in a block; rows of an image lie together
    key             a token that others attend to (with its value); a key need not be kept
    query           a token that attends
    gate            the differentiable twin of a decision, 0 or 1 in value
    score, margin   what a decision was made from; a margin is the log odds of being kept
    share           a part of an image's patch tokens, from 0 to 1
    schedule        which blocks decide, and the share that each of them keeps
    budget          the mean share over the deciding blocks at inference
    total           the number of rows of every image, where it is known beforehand
    every token     all patch tokens and all extra tokens that are present; `everyone` in code
    candidates      the patch tokens that a policy may choose from
    usage           which patch tokens each block kept
    record          what happened in a block, or in a whole pass
    notes           what a policy remembers between the blocks of one pass
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from svit_det.tokens.grid import TokenGrid
from svit_det.tokens.record import BlockRecord
from svit_det.tokens.selection import Selection


@dataclass(frozen=True)
class TokenState:
    """All that travels from one block to the next. Never mutated: `replace` makes the next."""

    tokens: Tensor
    """(B, S, C) the buffer: extra tokens first, then every patch token, row-major. A token that a
    block skips stays as it is."""
    num_extra: int
    """E."""
    grid: TokenGrid
    """The grid of the batch, padding included."""
    class_token: bool = False
    """The first extra token is the class token."""
    present: Tensor | None = None
    """(B, E) bool, the extra tokens that each image has; the class token is always among them.
    None: all."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What each policy remembers between the blocks of this one pass, under its own key."""
    history: tuple[BlockRecord, ...] = ()
    """One record per block run so far."""

    @property
    def extra(self) -> Tensor:
        """(B, E, C), a view."""
        return self.tokens[:, : self.num_extra]

    @property
    def patches(self) -> Tensor:
        """(B, N, C), a view."""
        return self.tokens[:, self.num_extra :] if self.num_extra else self.tokens

    @property
    def num_patches(self) -> int:
        """N."""
        return self.tokens.shape[1] - self.num_extra

    def with_patches(self, patches: Tensor) -> TokenState:
        """This state with other patch tokens (B, N, C)."""
        if self.num_extra:
            patches = torch.cat([self.extra, patches], dim=1)
        return replace(self, tokens=patches)

    def with_more(self, token: Tensor, present: Tensor | None = None) -> TokenState:
        """This state with one more extra token (B, 1, C), behind the others.

        `present` (B, E + 1) says which extra tokens each image has then. None: every image has the
        new token, and keeps the extra tokens that it had.
        """
        if present is None and self.present is not None:
            present = torch.cat([self.present, torch.ones_like(self.present[:, :1])], dim=1)
        tokens = torch.cat([self.extra, token.to(self.tokens.dtype), self.patches], dim=1)
        return replace(self, tokens=tokens, num_extra=self.num_extra + 1, present=present)

    def presence(self) -> Tensor:
        """(B, E) bool: `present`, or all True where `present` is None."""
        if self.present is not None:
            return self.present
        shape = (len(self.tokens), self.num_extra)
        return torch.ones(shape, dtype=torch.bool, device=self.tokens.device)

    def image(self, index: int) -> TokenState:
        """One image of the batch, before any block: notes and history are not taken along."""
        at = slice(index, index + 1)
        present = None if self.present is None else self.present[at]
        return replace(self, tokens=self.tokens[at], present=present, notes={}, history=())


def everyone(state: TokenState) -> Selection:
    """Every token that is present. `total` is set unless images may lack extra tokens."""
    shape = (len(state.tokens), state.num_patches)
    keep = torch.ones(shape, dtype=torch.bool, device=state.tokens.device)
    return Selection(keep=keep, total=state.tokens.shape[1] if state.present is None else None)
