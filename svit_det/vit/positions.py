"""Where kept tokens lie, in the buffer's order: three ways that give the same positions.

B images, S tokens of the buffer, K kept tokens of each image, known beforehand.

Eager code takes `by_nonzero`, the fastest. ONNX has no operator for it, so that exported graphs
take `by_top`, or `by_running_count` where the back end has no TopK.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class FindPositions(Protocol):
    """Finds the positions of kept tokens."""

    def __call__(self, mask: Tensor, count: int) -> Tensor:
        """(B, S) bool with `count` true of each image -> (B * count,) in the flattened buffer."""


def by_nonzero(mask: Tensor, count: int) -> Tensor:
    """A compaction of static size."""
    # Were the promise broken, the index would hold -1 or miss a row; the laws count.
    return torch.nonzero_static(mask.flatten(), size=len(mask) * count).squeeze(1)


def by_top(mask: Tensor, count: int) -> Tensor:
    """The highest of distinct numbers: S for the first token, falling by one, and 0 where skipped.

    Distinct, so that the order is the buffer's whatever the back end does with ties.
    """
    size = mask.shape[1]
    falling = size - torch.arange(size, dtype=torch.int32, device=mask.device)
    highest = torch.where(mask, falling, 0).topk(count, dim=1).values
    return _flattened(size - highest.long(), size)


def by_running_count(mask: Tensor, count: int) -> Tensor:
    """Each kept token writes its position where the number of kept ones before it says."""
    num_images, size = mask.shape
    # The skipped ones all write behind the last place, which is cut off.
    place = torch.where(mask, mask.long().cumsum(dim=1) - 1, count)
    positions = torch.arange(size, device=mask.device).expand(num_images, -1)
    found = torch.zeros(num_images, count + 1, dtype=torch.long, device=mask.device)
    return _flattened(found.scatter(1, place, positions)[:, :count], size)


def _flattened(positions: Tensor, size: int) -> Tensor:
    """(B, K) in each image's own buffer -> (B * K,) in the flattened one."""
    first = size * torch.arange(len(positions), device=positions.device).unsqueeze(1)
    return (positions + first).flatten()
