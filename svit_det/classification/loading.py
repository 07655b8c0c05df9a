"""Loaders: which images each process reads, and in which order.

W processes. Process r takes every W-th image from r on, so that all processes together read the
same images in a step as a single process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader, Sampler, Subset

from svit_det.classification.folder import LabelledImages
from svit_det.classification.images import (
    TestImages,
    TrainImages,
    seed_of,
    test_transform,
    train_transform,
)
from svit_det.classification.processes import Processes
from svit_det.errors import InputError
from svit_det.interrupts import ignore_interrupts

Batch = Any
"""A batch of a loader: images (B, 3, h, w), labels (B,), numbers of unreadable files (B,)."""


class EpochSampler(Sampler[tuple[int, int]]):
    """(place, seed) of one process's images of an epoch, with timm's repeated augmentation.

    With `repeats` 1 an epoch shows every image once. With `repeats` 3 an epoch shows a third of the
    images, each three times.
    """

    def __init__(
        self, images: LabelledImages, *, repeats: int, seed: int, where: Processes
    ) -> None:
        self.seed, self.epoch, self.where = seed, 0, where
        self._order = RepeatAugSampler(
            images,
            num_replicas=where.count,
            rank=where.rank,
            num_repeats=repeats,
            selected_round=256 if repeats > 1 else 0,
        )

    def __len__(self) -> int:
        return len(self._order)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order and all seeds."""
        self.epoch = epoch
        self._order.set_epoch(seed_of(self.seed, epoch))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step, place in enumerate(self._order):
            position = self.where.rank + self.where.count * step
            yield place, seed_of(self.seed, self.epoch, position)


def train_loader(cfg: Any, images: LabelledImages, where: Processes) -> DataLoader[Batch]:
    """Batches of one process. Raises InputError for a batch size that cannot be used."""
    batch = cfg.SOLVER.BATCH_SIZE
    if batch % where.count:
        raise InputError(f"SOLVER.BATCH_SIZE: {batch} does not divide by {where.count} processes.")
    batch //= where.count
    if (cfg.INPUT.MIXUP or cfg.INPUT.CUTMIX) and batch % 2:
        raise InputError(
            f"SOLVER.BATCH_SIZE: {batch} in each process, but mixup and cutmix mix pairs; "
            "take an even number, or set INPUT.MIXUP and INPUT.CUTMIX 0.0."
        )
    sampler = EpochSampler(images, repeats=cfg.INPUT.REPEATS, seed=cfg.SOLVER.SEED, where=where)
    if len(sampler) < batch:
        raise InputError(
            f"SOLVER.BATCH_SIZE: an epoch of {images.folder} shows {len(sampler) * where.count} "
            f"images, fewer than a batch of {cfg.SOLVER.BATCH_SIZE}; take a smaller one."
        )
    return DataLoader(
        TrainImages(images, train_transform(cfg.INPUT)),
        batch_size=batch,
        sampler=sampler,
        drop_last=True,
        **_reading(cfg),
    )


def val_loader(cfg: Any, images: LabelledImages, where: Processes) -> DataLoader[Batch]:
    """Every image once, shared out among the processes."""
    all_of_them = TestImages(images, test_transform(cfg.INPUT), cfg.INPUT.SIZE)
    mine = range(where.rank, len(images), where.count)
    return DataLoader(Subset(all_of_them, mine), batch_size=cfg.TEST.BATCH_SIZE, **_reading(cfg))


def _reading(cfg: Any) -> dict[str, Any]:
    workers = cfg.DATA.NUM_WORKERS
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": _begin_reading,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
    }


def _begin_reading(worker: int) -> None:
    """Leave it to the main process to report Ctrl-C and its own end, with which connections break.

    Otherwise Python would print a traceback in each process that reads on.
    """
    ignore_interrupts(worker)
    sys.excepthook = _without_broken_connections


def _without_broken_connections(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)
