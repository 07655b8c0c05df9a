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


def pack_index(keep: Tensor) -> PackIndex:
    """The rows that `keep` (B, N) selects.

    Asks the device once: the counts say how long the index is, so nothing has to be asked again.
    """
    counts = tuple(keep.sum(dim=1).tolist())
    rows = torch.nonzero_static(keep.flatten(), size=sum(counts)).squeeze(1)
    return PackIndex(rows, counts)


def gather_tokens(patches: Tensor, extra: Tensor, index: PackIndex) -> Tensor:
    """(B, N, C) patches and (B, E, C) extra tokens -> (T, C) packed rows."""
    kept = patches.flatten(0, 1).index_select(0, index.rows)
    if extra.shape[1] == 0:
        return kept
    parts = zip(extra.unbind(0), kept.split(index.counts), strict=True)
    return torch.cat([piece for pair in parts for piece in pair])


def scatter_tokens(
    packed: Tensor, patches: Tensor, extra: Tensor, index: PackIndex
) -> tuple[Tensor, Tensor]:
    """(T, C) packed rows -> new (patches, extra); patches that were not packed stay bit-identical.

    Values come back in the dtype of `patches`: under autocast a block returns half precision.
    """
    num_extra = extra.shape[1]
    packed = packed.to(patches.dtype)
    if num_extra:
        images = packed.split([num_extra + count for count in index.counts])
        extra = torch.stack([image[:num_extra] for image in images])
        packed = torch.cat([image[num_extra:] for image in images])
    written = patches.flatten(0, 1).index_copy(0, index.rows, packed)
    return written.view_as(patches), extra
