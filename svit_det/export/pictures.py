"""Made-up pictures, and the choice of pictures on which a file is compared with its model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRIES = 8
"""Number of further made-up pictures in which something may be found."""
FIRST_TRY = 5
"""Seed of the first of them; smaller seeds belong to pictures that are always compared."""


@torch.no_grad()
def where_something_is_found(
    graph: nn.Module, images: list[Tensor], given: Iterable[Tensor]
) -> list[Tensor]:
    """`images`, and one more picture if the model finds nothing in any of them.

    A comparison without detections says nothing about boxes and masks. The further picture is the
    first one with a detection, of `given` and then of made-up pictures that are as large as the
    first of `images`. Where there is none, `images` are returned as they are.
    """
    batch, _, height, width = images[0].shape
    seeds = range(FIRST_TRY, FIRST_TRY + TRIES)
    made_up = (made_up_pictures((height, width), seed, batch) for seed in seeds)

    def finds(image: Tensor) -> bool:
        return all(output.numel() for output in graph(image))

    if any(map(finds, images)):
        return images
    further = next(filter(finds, chain(given, made_up)), None)
    return images if further is None else [*images, further]


def made_up_pictures(size: tuple[int, int], seed: int, batch: int) -> Tensor:
    """(B, 3, height, width) different made-up pictures."""
    return torch.cat([made_up_picture(size, 100 * index + seed) for index in range(batch)])


def made_up_picture(size: tuple[int, int], seed: int) -> Tensor:
    """(1, 3, height, width) smooth blobs of pixels, 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(size[0] // 12, 2), max(size[1] // 12, 2), generator=generator)
    return 255 * F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
