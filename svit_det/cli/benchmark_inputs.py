"""The inputs of the arms: noise, or pictures from a folder, the same in every run.

B images.
"""

from __future__ import annotations

import argparse
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor

from svit_det.cli.benchmark_options import grids_of
from svit_det.errors import InputError
from svit_det.images import find_images, read_image, spread_out

Size = tuple[int, int]
"""(height, width) in pixels."""


def image_sizes(args: argparse.Namespace, step: int, patch_size: int) -> list[Size]:
    """The image sizes that the command line asks for, as multiples of `step` pixels.

    Raises InputError for a grid of tokens that is no such multiple.
    """
    grids = grids_of(args)
    if not grids:
        return [(-(-args.height // step) * step, -(-args.width // step) * step)]
    for rows, columns in grids:
        if rows * patch_size % step or columns * patch_size % step:
            given = f"--tokens {rows} {columns}" if args.tokens else f"--grids {rows}x{columns}"
            raise InputError(
                f"{given}: the backbone needs multiples of {step // patch_size} tokens; choose "
                "others, or --parts blocks."
            )
    return [(rows * patch_size, columns * patch_size) for rows, columns in grids]


def make_images(
    cfg: CfgNode, args: argparse.Namespace, batch: int, size: Size, *, offset: int = 0
) -> list[Tensor]:
    """`--images` different batches (B, 3, height, width), normalised, in float32 on the CPU.

    Another `offset` gives other images.
    """
    if args.image_folder is not None:
        return _pictures(cfg, args, batch, size, offset)
    generator = torch.Generator().manual_seed(1 + offset)
    return [torch.randn(batch, 3, *size, generator=generator) for _ in range(args.images)]


def _pictures(
    cfg: CfgNode, args: argparse.Namespace, batch: int, size: Size, offset: int
) -> list[Tensor]:
    """Pictures spread over the folder; a folder with too few gives some of them more than once."""
    # The picture fills the size that was asked for; the rest, up to a multiple that the backbone
    # takes, is padding.
    inner = size if grids_of(args) else (args.height, args.width)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in pixel_scale(cfg))
    images = []
    for path in timed_pictures(args, args.images * batch, offset=offset):
        pixels = cover(read_image(path, cfg.INPUT.FORMAT), inner)
        image = (torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() - mean) / std
        images.append(F.pad(image, (0, size[1] - inner[1], 0, size[0] - inner[0])))
    return list(torch.stack(images).split(batch))


def timed_pictures(args: argparse.Namespace, wanted: int, *, offset: int = 0) -> list[Path]:
    """The `wanted` files of --image-folder that a run takes; none without that folder."""
    if args.image_folder is None:
        return []
    chosen = spread_out(find_images([args.image_folder]), wanted * (offset + 1))
    return list(islice(cycle(chosen), wanted * offset, wanted * (offset + 1)))


def cover(image: np.ndarray, size: Size) -> np.ndarray:
    """The middle of (height, width, 3) uint8, of `size`, after resizing the image to cover it."""
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (
        max(round(scale * given), wanted)
        for given, wanted in zip(image.shape[:2], size, strict=True)
    )
    resized = T.ResizeTransform(*image.shape[:2], height, width).apply_image(image)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return resized[top : top + size[0], left : left + size[1]]


def pixel_scale(cfg: CfgNode) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that detectron2 normalises pixels with."""
    return list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
