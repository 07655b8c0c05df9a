"""Layout: how rows lie. Rows: the tokens of the buffer that become rows, and the way back.

B images, E extra tokens, N patch tokens, S = E + N tokens of the buffer, C channels, T rows of all
images together, K rows of each image where all have the same number.

Rows of one image lie together, images in order; within an image, rows keep the buffer's order
(extra tokens first, then patch tokens, row-major).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svit_det.tokens import Selection


@dataclass(frozen=True)
class Layout:
    """How the rows of a batch lie. `lengths` and `shape` agree where `shape` is not None."""

    lengths: tuple[int, ...]
    """Rows per image, summing to T; an entry may be 0."""
    shape: tuple[int, int] | None
    """(B, K) where all images have the same number of rows; else None."""
    key_mask: Tensor | None = None
    """(B, K) bool, rows that queries may attend to; needs `shape`. None: all."""
    index: Tensor | None = None
    """(T,) where each row lies in the flattened (B * S) buffer. None: every token, in order."""

    @property
    def num_rows(self) -> int:
        """T."""
        if self.shape is not None:
            return self.shape[0] * self.shape[1]
        return sum(self.lengths)

    def cell(self, size: int) -> Tensor | None:
        """(T,) where each row lies in its own image's buffer of `size` tokens; None: in order."""
        return None if self.index is None else self.index % size


@dataclass(frozen=True)
class Rows:
    """The rows that a block computes for one selection, as an executor arranged them."""

    layout: Layout
    selection: Selection
    """The selection that runs. An executor with limited room may have narrowed the policy's."""
    valid: Tensor | None = None
    """(B, K) bool, rows whose result counts; the others only fill up the shape. None: all."""
    gate: Tensor | None = None
    """(B, S) share of the new value in the result. None: the new value alone."""
    soft_keys: Tensor | None = None
    """(B, S) factor of each key's weight inside the softmax. None: no factor."""

    @property
    def empty(self) -> bool:
        """There is no row to compute. False in a graph whose number of rows varies."""
        rows = self.layout.num_rows
        return isinstance(rows, int) and rows == 0

    def gather(self, tokens: Tensor) -> Tensor:
        """(B, S, C) buffer -> (T, C) rows."""
        flat = tokens.flatten(0, 1)
        return flat if self.layout.index is None else flat.index_select(0, self.layout.index)

    def scatter(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(T, C) new rows -> new (B, S, C) buffer; tokens that are no row stay bit-identical.

        The rows are cast to the dtype of the buffer: under autocast a block returns half precision.
        """
        rows = rows.to(tokens.dtype)
        index = self.layout.index
        if index is None:
            new = rows.view_as(tokens)
            if self.gate is None:
                return new
            return torch.lerp(tokens, new, self.gate.to(tokens.dtype).unsqueeze(-1))
        flat = tokens.flatten(0, 1)
        if self.valid is not None:
            rows = torch.where(self.valid.reshape(-1, 1), rows, flat.index_select(0, index))
        return flat.index_copy(0, index, rows).view_as(tokens)

    def spread(self, values: Tensor, size: int) -> Tensor:
        """(G, T) values of rows -> (B, G, S) values of tokens; 0 for a token that is no key."""
        layout = self.layout
        if self.valid is not None:
            values = values * self.valid.flatten()
        num_images = len(layout.lengths)
        if layout.index is not None:
            spread = values.new_zeros(len(values), num_images * size)
            values = spread.index_copy(1, layout.index, values)
        return values.unflatten(1, (num_images, size)).transpose(0, 1)
