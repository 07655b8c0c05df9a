"""Pack and unpack: a ragged set of tokens <-> the grid.

B images, N patch tokens, E extra tokens, C channels, T packed tokens of all images together.
Packed rows are ordered image by image: an image's extra tokens first, then its patches, row-major.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Which packed rows belong to which image, and which of them may be looked at."""

    lengths: tuple[int, ...]
    """Rows per image, summing to T; an entry may be 0."""
    key_mask: Tensor | None = None
    """(B, length) bool, only with equal lengths: rows that attention may look at. None: all."""

    @property
    def uniform(self) -> bool:
        """All images have the same number of rows."""
        return all(length == self.lengths[0] for length in self.lengths)


@dataclass(frozen=True)
class PackIndex:
    """Where the packed rows of one selection come from and go back to."""

    rows: Tensor
    """(T',) positions of the kept patches in the flattened (B * N) grid."""
    counts: tuple[int, ...]
    """Kept patches per image, summing to T'."""
    extra_counts: tuple[int, ...]
    """Extra tokens per image."""
    extra_rows: Tensor | None = None
    """Positions of the extra tokens in the flattened (B * E); None: all of them."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows per image."""
        return tuple(map(sum, zip(self.extra_counts, self.counts, strict=True)))


def pack_index(keep: Tensor, num_extra: int, present: Tensor | None = None) -> PackIndex:
    """The rows that `keep` (B, N) selects, and the extra tokens that are `present` (B, E).

    Asks the device once: the counts say how long the index is, so nothing has to be asked again.
    """
    if present is None:
        counts = tuple(keep.sum(dim=1).tolist())
        extra_counts, extra_rows = (num_extra,) * len(counts), None
    else:
        both = torch.stack([keep.sum(dim=1), present.sum(dim=1)]).tolist()
        counts, extra_counts = map(tuple, both)
        extra_rows = torch.nonzero_static(present.flatten(), size=sum(extra_counts)).squeeze(1)
    rows = torch.nonzero_static(keep.flatten(), size=sum(counts)).squeeze(1)
    return PackIndex(rows, counts, extra_counts, extra_rows)


def gather_tokens(patches: Tensor, extra: Tensor, index: PackIndex) -> Tensor:
    """(B, N, C) patches and (B, E, C) extra tokens -> (T, C) packed rows."""
    kept = patches.flatten(0, 1).index_select(0, index.rows)
    if extra.shape[1] == 0:
        return kept
    beside = extra.flatten(0, 1)
    if index.extra_rows is not None:
        beside = beside.index_select(0, index.extra_rows)
    parts = zip(beside.split(index.extra_counts), kept.split(index.counts), strict=True)
    return torch.cat([piece for pair in parts for piece in pair])


def scatter_tokens(
    packed: Tensor, patches: Tensor, extra: Tensor, index: PackIndex
) -> tuple[Tensor, Tensor]:
    """(T, C) packed rows -> new (patches, extra); what was not packed stays bit-identical.

    Values come back in the dtype of `patches`: under autocast a block returns half precision.
    """
    packed = packed.to(patches.dtype)
    if extra.shape[1]:
        beside, packed = _split_extra(packed, index)
        if index.extra_rows is None:
            extra = beside.view_as(extra)
        else:
            extra = extra.flatten(0, 1).index_copy(0, index.extra_rows, beside).view_as(extra)
    written = patches.flatten(0, 1).index_copy(0, index.rows, packed)
    return written.view_as(patches), extra


def _split_extra(packed: Tensor, index: PackIndex) -> tuple[Tensor, Tensor]:
    """(T, ...) packed rows -> those of the extra tokens and those of the patches."""
    lengths = [n for pair in zip(index.extra_counts, index.counts, strict=True) for n in pair]
    pieces = packed.split(lengths)
    return torch.cat(pieces[::2]), torch.cat(pieces[1::2])
