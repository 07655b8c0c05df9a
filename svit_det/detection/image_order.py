"""The images of a training step and their augmentation, as a function of seed and position.

A position counts the images of a run, over all epochs and processes. Images and augmentation do not
depend on the number of loader processes or on earlier reading, so that a resumed run sees the same
images as an uninterrupted run.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import DataLoader, Dataset

from svit_det.errors import InputError
from svit_det.interrupts import ignore_interrupts
from svit_det.training.randomness import drawn_at, seed_of

logger = logging.getLogger(__name__)

ORDER, AUGMENTATION, SUBSTITUTE = range(3)
"""The kinds of random draws at a place; each kind has random numbers of its own."""
TRIES = 100
"""Number of images that may be unreadable one after the other."""
Place = tuple[int, int]
"""(position, index of the image in the set)."""


def index_stream(size: int, seed: int, repeats: torch.Tensor | None = None) -> Iterator[int]:
    """The indices of all positions: shuffled epoch by epoch, without end.

    `repeats` (size,): the mean number of times that an epoch holds each image. The fractional part
    is the probability of one more time.
    """
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(seed_of(seed, ORDER, epoch))
        indices = torch.arange(size)
        if repeats is not None:
            whole = torch.floor(repeats)
            more = torch.rand(size, generator=generator) < repeats - whole
            indices = torch.repeat_interleave(indices, (whole + more).long())
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


def batches(places: Iterator[Place], batch: int, *, upright: Sequence[bool]) -> Iterator[list]:
    """Batches of images that are all upright or all wide, so that they need less padding.

    `upright` says of each image of the set whether it is upright; empty: batches in plain order.
    """
    waiting: dict[bool, list[Place]] = {True: [], False: []}
    for place in places:
        group = waiting[bool(upright) and upright[place[1]]]
        group.append(place)
        if len(group) == batch:
            yield group[:]
            group.clear()


class PlacedImages(Dataset):
    """Model inputs by their place; an unreadable image is replaced by the same other image each
    time."""

    def __init__(
        self, records: Sequence[dict], mapper: Callable[[dict], dict | None], seed: int
    ) -> None:
        self._records = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, place: Place) -> dict:
        position, index = place
        for attempt in range(TRIES):
            with drawn_at(self._seed, AUGMENTATION, position, attempt):
                given = self._mapper(self._records[index])
            if given is not None:
                return given
            index = seed_of(self._seed, SUBSTITUTE, position, attempt) % len(self._records)
        raise InputError(
            f"DATASETS.TRAIN: {TRIES} images one after the other could not be read; the log names "
            "them."
        )


class TrainImages:
    """An endless loader that can begin at any step; a batch is a list of model inputs.

    process, processes: the number of this process and of all processes of the training, which share
    every batch. Raises InputError for an empty set.
    """

    def __init__(
        self,
        cfg: CfgNode,
        mapper: Callable[[dict], dict | None],
        *,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        records = _records(cfg)
        self._images, self._mapper = records, mapper
        self._batch = cfg.SOLVER.IMS_PER_BATCH // processes
        self._workers = cfg.DATALOADER.NUM_WORKERS
        self._process, self._processes = process, processes
        self._repeats = _repeats(cfg, records)
        grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
        self._upright = [record["width"] <= record["height"] for record in records if grouped]
        self.seed = seed
        self.first_step = 0

    @property
    def number(self) -> int:
        """The number of images of the sets."""
        return len(self._images)

    def plan(self) -> Iterator[list[Place]]:
        """The batches of this process from `first_step` on, as places."""
        stream = enumerate(index_stream(len(self._images), self.seed, self._repeats))
        mine = itertools.islice(stream, self._process, None, self._processes)
        every = batches(mine, self._batch, upright=self._upright)
        return itertools.islice(every, self.first_step, None)

    def __iter__(self) -> Iterator[list[dict]]:
        loader = DataLoader(
            PlacedImages(self._images, self._mapper, self.seed),
            batch_sampler=_Plan(self.plan),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            worker_init_fn=ignore_interrupts,
            generator=torch.Generator(),  # the default one would draw from the step's numbers
        )
        return iter(loader)


class _Plan:
    """The plan as a sampler of batches for a DataLoader."""

    def __init__(self, plan: Callable[[], Iterator[list[Place]]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[list[Place]]:
        return self._plan()


def _as_it_is(batch: list[dict]) -> list[dict]:
    return batch


def _records(cfg: CfgNode) -> list[dict]:
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    proposals = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
    try:
        return get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=keypoints,
            proposal_files=proposals,
        )
    except AssertionError as error:
        raise InputError(f"DATASETS.TRAIN: {str(error).rstrip('.')}.") from error


def _repeats(cfg: CfgNode, records: Sequence[Mapping[str, Any]]) -> torch.Tensor | None:
    """The repeats of each image for `DATALOADER.SAMPLER_TRAIN`; None: once in an epoch."""
    if cfg.DATALOADER.SAMPLER_TRAIN != "RepeatFactorTrainingSampler":
        return None
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
