"""Which tokens lie on objects: a pixel mask brought to the token grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_coverage(mask: Tensor, *, input_size: tuple[int, int], patch_size: int) -> Tensor:
    """(height, width) bool mask -> (H, W) float, the share of each token's pixels that it covers.

    `input_size` is the (height, width) in pixels of the image as the network saw it, of which the
    mask may be a resized version; pixels beyond it, in tokens that stick out, do not count.
    """
    resized = F.interpolate(mask[None, None].float(), size=input_size, mode="nearest-exact")
    height, width = input_size
    padding = (0, -width % patch_size, 0, -height % patch_size)
    area = F.avg_pool2d(F.pad(torch.ones_like(resized), padding), patch_size)
    covered = F.avg_pool2d(F.pad(resized, padding), patch_size)
    return (covered / area)[0, 0]
