"""Order and augmentation of training images are a function of seed and position."""

import itertools

import numpy as np
import pytest
import torch

from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.datasets import register_datasets
from svit_det.detection.image_order import TRIES, PlacedImages, TrainImages, batches, index_stream
from svit_det.errors import InputError
from svit_det.training.randomness import drawn_at, seed_all, seed_of


def first(stream, count):
    return list(itertools.islice(stream, count))


def test_every_epoch_holds_every_image_in_another_order():
    epochs = np.array(first(index_stream(10, 3), 40)).reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert first(index_stream(10, 3), 40) == epochs.flatten().tolist()
    assert first(index_stream(10, 4), 40) != epochs.flatten().tolist()


def test_images_that_are_seen_more_often():
    repeats = torch.tensor([1.0, 2.0, 1.5])
    counts = np.bincount(first(index_stream(3, 0, repeats), 4500))
    assert counts / counts[0] == pytest.approx([1, 2, 1.5], rel=0.05)


def test_batches_of_images_that_stand_or_lie():
    upright = [True, False, True, False, False]
    places = [(position, position % 5) for position in range(20)]
    found = list(batches(iter(places), 2, upright=upright))
    assert all(len({upright[index] for _, index in batch}) == 1 for batch in found)
    assert found[0] == [(0, 0), (2, 2)] and found[1] == [(1, 1), (3, 3)]
    assert next(batches(iter(places), 2, upright=())) == [(0, 0), (1, 1)]


@pytest.fixture
def images(tiny_config):
    """Factory: the loader under overrides."""

    def make(*options, seed=7, **arguments):
        cfg = tiny_config("INPUT.RANDOM_FLIP", "both", "INPUT.CROP.ENABLED", True, *options)
        register_datasets(cfg)
        return TrainImages(cfg, TokenDatasetMapper(cfg, True), seed=seed, **arguments)

    return make


def fingerprints(loader, count):
    return [
        [(given["image_id"], given["image"].double().sum().item()) for given in batch]
        for batch in first(iter(loader), count)
    ]


def test_a_loader_can_begin_at_any_step(images):
    whole = fingerprints(images(), 6)
    later = images()
    later.first_step = 4
    np.random.seed(99), torch.manual_seed(99)
    assert fingerprints(later, 2) == whole[4:]
    assert fingerprints(images(seed=8), 6) != whole


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(images, workers):
    assert fingerprints(images("DATALOADER.NUM_WORKERS", workers), 4) == fingerprints(images(), 4)


def test_two_processes_share_every_position(images):
    alone = images("DATALOADER.ASPECT_RATIO_GROUPING", False)
    shares = [
        images("DATALOADER.ASPECT_RATIO_GROUPING", False, process=rank, processes=2)
        for rank in range(2)
    ]
    together = [
        sorted([*one, *two]) for one, two in zip(*(first(each.plan(), 5) for each in shares))
    ]
    assert together == [sorted(batch) for batch in first(alone.plan(), 5)]


def test_more_processes_than_images(images):
    """Each sees another image at each of its positions all the same."""
    loader = images("SOLVER.IMS_PER_BATCH", 16, process=15, processes=16)
    assert len(fingerprints(loader, 3)) == 3


def test_an_unreadable_image_gives_way_to_the_same_other_one():
    def mapper(record):
        return None if record["number"] < 3 else {**record, "drawn": np.random.rand()}

    records = [{"number": number} for number in range(5)]
    given = [PlacedImages(records, mapper, 1)[(17, 0)] for _ in range(3)]
    assert given[0]["number"] >= 3
    assert given[0] == given[1] == given[2]
    with pytest.raises(InputError, match=f"{TRIES} images one after the other"):
        PlacedImages(records, lambda record: None, 1)[(0, 0)]


def test_reading_images_leaves_the_random_numbers_of_the_step_alone():
    seed_all(1, 2)
    wanted = np.random.rand(), torch.rand(1).item()
    seed_all(1, 2)
    with drawn_at(5, 6):
        drawn = np.random.rand(), torch.rand(1).item()
    assert (np.random.rand(), torch.rand(1).item()) == wanted != drawn
    with drawn_at(5, 6):
        assert (np.random.rand(), torch.rand(1).item()) == drawn
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(1, 2, 0), seed_of(1)}) == 4
