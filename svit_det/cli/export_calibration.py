"""Pictures, prepared as for a detector, from which the ranges of 8-bit numbers are chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor

from svit_det.errors import InputError
from svit_det.images import find_images, read_image, spread_out

NUMBER = 32
"""Number of pictures, spread over the folder."""


def calibration_pictures(
    cfg: CfgNode, folder: str | None, *, size: tuple[int, int], batch: int
) -> list[Tensor]:
    """`NUMBER` pictures, or all of a smaller folder, in full batches: (B, 3, *size), 0 to 255.

    Without a folder the pictures are those of the config's first training set. Raises InputError
    where there are no pictures, or fewer than one batch.
    """
    try:
        paths = find_images([folder or training_folder(cfg)])
    except InputError as error:
        raise error if folder is None else InputError(f"--calibration {error}") from error
    chosen = spread_out(paths, NUMBER)
    if len(chosen) < batch:
        raise InputError(f"--calibration: {len(chosen)} pictures are fewer than --batch {batch}.")
    pictures = prepared_pictures(chosen, cfg, size)
    full = len(pictures) // batch * batch
    return list(torch.stack(pictures[:full]).split(batch))


def prepared_pictures(paths: Sequence[Path], cfg: CfgNode, size: tuple[int, int]) -> list[Tensor]:
    """The pictures of these files, each (3, *size) with pixels from 0 to 255."""
    return [fitted(read_image(path, cfg.INPUT.FORMAT), cfg, size) for path in paths]


def training_folder(cfg: CfgNode) -> str:
    """The folder with the pictures of the first training set. Raises InputError for none."""
    folders = {name: folder for name, _, folder in cfg.DATASETS.COCO_FORMAT}
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else "none"
    if not os.path.isdir(folders.get(name, "")) or name not in folders:
        raise InputError(
            f"--int8: the pictures of the training set ({name}) are not here; give --calibration "
            "FOLDER."
        )
    return folders[name]


def fitted(image: np.ndarray, cfg: CfgNode, size: tuple[int, int]) -> Tensor:
    """(height, width, 3) uint8 -> (3, *size) float: resized as at test time or smaller, padded."""
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    wanted = resize.get_transform(image)
    if wanted.new_h > size[0] or wanted.new_w > size[1]:
        factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
        height, width = (max(int(factor * side + 0.5), 1) for side in image.shape[:2])
        wanted = T.ResizeTransform(*image.shape[:2], height, width)
    pixels = torch.from_numpy(wanted.apply_image(image).transpose(2, 0, 1).copy()).float()
    canvas = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(3, 1, 1).repeat(1, *size)
    canvas[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return canvas
