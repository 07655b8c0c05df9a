"""Inputs, never timed ones, on which the ranges of the benchmark's 8-bit files are chosen."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from svit_det.cli.benchmark_inputs import Size, pixel_scale, timed_pictures
from svit_det.cli.benchmark_models import names_weights
from svit_det.cli.export_calibration import NUMBER, prepared_pictures, training_folder
from svit_det.errors import InputError
from svit_det.images import find_images, spread_out

SEED = 101
"""Of noise; the timed noise has another seed."""


@dataclass(frozen=True)
class Calibration:
    """Normalised images (1, 3, height, width), and where they come from."""

    source: str
    images: list[Tensor]

    @property
    def said(self) -> dict[str, Any]:
        """The description as a JSON object."""
        return {"inputs": self.source, "number": len(self.images)}


def calibration_for(cfg: CfgNode, args: argparse.Namespace, size: Size) -> Calibration:
    """At most `NUMBER` images that are not timed.

    With trained weights they are pictures of the first training set, as for `svit-det export
    --int8`; else, or without that set, other pictures of --image-folder; else other noise.
    Training pictures that are timed themselves are left out too.
    """
    folders = []
    if names_weights(args):
        try:
            folder = training_folder(cfg)
            folders.append((f"pictures of the training set {cfg.DATASETS.TRAIN[0]}", folder))
        except InputError:  # the set is not here
            pass
    if args.image_folder is not None:
        folders.append(("other pictures of --image-folder than the timed ones", args.image_folder))
    for source, folder in folders:
        if chosen := _untimed(args, folder):
            return Calibration(source, _normalised(chosen, cfg, size))
    generator = torch.Generator().manual_seed(SEED)
    noise = [torch.randn(1, 3, *size, generator=generator) for _ in range(NUMBER)]
    return Calibration("noise, another than the timed one", noise)


def _untimed(args: argparse.Namespace, folder: str) -> list[Path]:
    """Pictures spread over the folder without the timed ones; none for a folder without others."""
    timed = {path.resolve() for path in timed_pictures(args, args.images)}
    try:
        found = find_images([folder])
    except InputError:  # no pictures in it
        return []
    return spread_out([path for path in found if path.resolve() not in timed], NUMBER)


def _normalised(paths: list[Path], cfg: CfgNode, size: Size) -> list[Tensor]:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in pixel_scale(cfg))
    return [(each - mean).div(std).unsqueeze(0) for each in prepared_pictures(paths, cfg, size)]
