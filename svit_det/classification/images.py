"""Images to tensors: timm's transforms, with a random seed for each image.

The random draws therefore depend neither on the number of reading processes nor on the place where
a training was interrupted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from svit_det.classification.folder import LabelledImages
from svit_det.errors import InputError
from svit_det.images import read_image
from svit_det.settings import shown

READABLE = -1
"""Stands instead of an unreadable image's number where the image could be read."""
RAND_AUGMENT = re.compile(
    r"rand(-m(\d|10)|-n[1-9]|-p(0(\.\d+)?|1(\.0+)?)|-mstd\d{1,3}(\.\d+)?|-mmax([1-9]|10)|-inc[01]"
    r"|-t(weights|3aw|3a))*"
)
"""timm's words for RandAugment. timm takes no notice of a part that it does not know."""


def train_transform(given: Any) -> Callable[[Image.Image], Tensor]:
    """timm's training transforms by the node INPUT: crop, flip, RandAugment, random erasing."""
    _check_word(given.RAND_AUGMENT)
    transform = create_transform(
        given.SIZE,
        is_training=True,
        scale=tuple(given.SCALE),
        ratio=tuple(given.RATIO),
        hflip=given.FLIP,
        color_jitter=given.COLOR_JITTER,
        auto_augment=given.RAND_AUGMENT or None,
        interpolation=given.INTERPOLATION,
        mean=tuple(given.MEAN),
        std=tuple(given.STD),
        re_prob=given.ERASE,
        re_mode="pixel",
    )
    for operation in (each for part in transform.transforms for each in getattr(part, "ops", ())):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits_to_keep: int, **others: Any) -> Image.Image:
    """timm's operation, which RandAugment at full strength asks to keep no bit: all is black then.

    Pillow 13 refuses to keep no bit.
    """
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **others)


def _check_word(word: str) -> None:
    """Refuse a RAND_AUGMENT that timm does not read, or reads in part without a word about it."""
    if word and not RAND_AUGMENT.fullmatch(word):
        raise InputError(
            f"INPUT.RAND_AUGMENT: {shown(word)} is no word of timm's for RandAugment, as "
            "'rand-m9-mstd0.5-inc1' is one."
        )


def test_transform(given: Any) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transforms by the node INPUT: resize the short side, crop the centre."""
    return create_transform(
        given.SIZE,
        is_training=False,
        interpolation=given.INTERPOLATION,
        crop_pct=given.CROP_SHARE,
        mean=tuple(given.MEAN),
        std=tuple(given.STD),
    )


class TrainImages(Dataset[tuple[Tensor, int, int]]):
    """(place, seed) -> (image (3, h, w), label, number of an unreadable file or READABLE).

    An image that cannot be read is replaced by the next readable image.
    """

    def __init__(self, images: LabelledImages, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, drawn: tuple[int, int]) -> tuple[Tensor, int, int]:
        place, seed = drawn
        unreadable = READABLE
        for step in range(len(self)):
            number = (place + step) % len(self)
            path, label = self.images.files[number]
            try:
                pixels = read_image(path, "RGB")
            except InputError:
                unreadable = number if step == 0 else unreadable
                continue
            with seeded(seed):
                return self.transform(Image.fromarray(pixels)), label, unreadable
        raise InputError(f"{self.images.folder}: not one of its images can be read.")


class TestImages(Dataset[tuple[Tensor, int, int]]):
    """place -> (image (3, h, w), label, number of an unreadable file or READABLE).

    An image that cannot be read is all 0, and its label is -1.
    """

    __test__ = False  # pytest would take the class for a test because of its name

    def __init__(
        self, images: LabelledImages, transform: Callable[[Image.Image], Tensor], size: int
    ) -> None:
        self.images = images
        self.transform = transform
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int, int]:
        path, label = self.images.files[number]
        try:
            pixels = read_image(path, "RGB")
        except InputError:
            return torch.zeros(3, self.size, self.size), -1, number
        return self.transform(Image.fromarray(pixels)), label, READABLE


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the with-block the CPU's generators draw by `seed`; then they go on as before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such as run, epoch and place."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
