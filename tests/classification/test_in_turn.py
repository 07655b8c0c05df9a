"""Several classifiers take turns on batches of their own test sets; no time is asserted."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from svit_det.benchmark.timing import time_interleaved
from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.folder import read_split
from svit_det.cli import classifiers_in_turn
from svit_det.cli.classifiers_in_turn import BATCHES, REPEATS, WARMUP, Contender, speeds_of

NAMES = ("Dense", "EViT", "SViT")


@pytest.fixture
def contenders(a_yaml, small, generated_images):
    """Small classifiers with random weights."""
    images = read_split(generated_images, "val", num_classes=3)

    def make(name, batch):
        cfg = load_config(a_yaml, small(MODEL__TOKEN_POLICY__NAME=name, TEST__BATCH_SIZE=batch))
        return Contender(cfg, build_classifier(cfg).eval(), images)

    return [make(name, batch) for name, batch in zip(NAMES, (5, 5, 2), strict=True)]


def test_every_model_is_called_in_turn_after_a_warm_up(contenders):
    calls = []
    for name, each in zip(NAMES, contenders, strict=True):
        each.model.register_forward_pre_hook(
            lambda _, given, name=name: calls.append((name, given[0]))
        )
    speeds = speeds_of(contenders)
    assert len(speeds) == 3 and all(speed > 0 for speed in speeds)
    rounds = [calls[at : at + 3] for at in range(0, len(calls), 3)]
    assert len(rounds) == WARMUP + BATCHES * REPEATS and WARMUP > 0
    for number, each in enumerate(rounds):
        assert tuple(name for name, _ in each) == NAMES[:: 1 if number % 2 == 0 else -1]
        seen = dict(each)
        assert seen["Dense"].equal(seen["EViT"])  # the same images at the same time
    assert [len(dict(each)["SViT"]) for each in rounds] == [2] * len(rounds)


def test_classifiers_of_the_same_set_share_its_batches(contenders, monkeypatch):
    made, batches = [], Contender.batches
    monkeypatch.setattr(Contender, "batches", lambda own: made.append(own) or batches(own))
    speeds_of(contenders)
    assert made == [contenders[0], contenders[2]]  # the third one has another batch size


def test_speeds_count_the_images_of_the_timed_calls(contenders, monkeypatch):
    """A clock that goes on by a second with each look at it: 12 calls of 1 s for each model."""
    ticks = iter(range(1000))
    timed = partial(time_interleaved, clock=lambda: next(ticks))
    monkeypatch.setattr(classifiers_in_turn, "time_interleaved", timed)
    images = 5 + 5 + 2 + 5  # 12 test images are three batches, and the first comes again
    assert speeds_of(contenders) == [images / 4, images / 4, 2.0]


def test_the_batches_mix_the_classes_and_leave_out_what_cannot_be_read(contenders, tmp_path):
    """Blue, green and red pictures; the test set lists them class by class."""
    batches = contenders[2].batches()
    again = contenders[2].batches()
    assert len(batches) == BATCHES
    assert all(each.equal(same) for each, same in zip(batches, again, strict=True))
    brightest = torch.cat(batches).mean(dim=(2, 3)).argmax(dim=1).tolist()
    assert len(set(brightest)) > 1 and brightest != sorted(brightest, reverse=True)
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    images = contenders[0].images
    images = replace(images, files=((str(broken), 0),) * 30 + images.files[:2])
    assert sum(map(len, replace(contenders[0], images=images).batches())) == 2
