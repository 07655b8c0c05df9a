"""Where kept tokens lie, in the buffer's order: three ways that give the same positions.

B images, S tokens of the buffer, K kept tokens of each image, known beforehand.

Eager code takes `by_nonzero`, the fastest way. ONNX has no operator for it. Exported graphs
therefore take `by_top`, or `by_running_count` where the back end has no TopK.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class FindPositions(Protocol):
    """Finds the positions of kept tokens."""

    def __call__(self, mask: Tensor, count: int) -> Tensor:
        """(B, S) bool, `count` True in each image -> (B * count,) in the flattened buffer."""


def by_nonzero(mask: Tensor, count: int) -> Tensor:
    """The places of the True entries, as torch finds them for a static size."""
    # A mask with another count would give an index with -1 or a missing row; the tests of all
    # policies check the counts.
    return torch.nonzero_static(mask.flatten(), size=len(mask) * count).squeeze(1)


def by_top(mask: Tensor, count: int) -> Tensor:
    """TopK of numbers that fall by one from S for the first token; skipped tokens have 0.

    The numbers of kept tokens are distinct, so that a back end's order of ties does not matter.
    """
    size = mask.shape[1]
    falling = size - torch.arange(size, dtype=torch.int32, device=mask.device)
    highest = torch.where(mask, falling, 0).topk(count, dim=1).values
    return _flattened(size - highest.long(), size)


def by_running_count(mask: Tensor, count: int) -> Tensor:
    """Each kept token writes its position at the place given by the count of kept tokens before."""
    num_images, size = mask.shape
    # Skipped tokens all write to one more place behind the last; this place is cut off.
    place = torch.where(mask, mask.long().cumsum(dim=1) - 1, count)
    positions = torch.arange(size, device=mask.device).expand(num_images, -1)
    found = torch.zeros(num_images, count + 1, dtype=torch.long, device=mask.device)
    return _flattened(found.scatter(1, place, positions)[:, :count], size)


def _flattened(positions: Tensor, size: int) -> Tensor:
    """(B, K) places in each image's own buffer -> (B * K,) places in the flattened buffer."""
    first = size * torch.arange(len(positions), device=positions.device).unsqueeze(1)
    return (positions + first).flatten()
