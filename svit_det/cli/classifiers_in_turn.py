"""Evaluates several classifiers, and times them in turns, so that no model pays for the others.

The speed of one evaluation after another would tell the models' order too: the first one finds the
device cold, and a busy machine slows whichever model happens to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from svit_det.benchmark.timing import time_interleaved
from svit_det.classification.evaluation import Evaluation, evaluate
from svit_det.classification.folder import LabelledImages, read_split
from svit_det.classification.images import READABLE
from svit_det.classification.load import read_trained
from svit_det.classification.loading import val_loader
from svit_det.classification.model import TokenClassifier
from svit_det.classification.processes import Processes

BATCHES, REPEATS, WARMUP = 4, 3, 2
"""Batches of each model, timed calls on each of them, and calls before these."""


@dataclass(frozen=True)
class Contender:
    """A trained classifier and the images that it is evaluated on."""

    cfg: Any
    model: TokenClassifier
    images: LabelledImages

    @classmethod
    def read(cls, path: str, options: Sequence[str]) -> Contender:
        """From a file that says how it was trained. Raises InputError."""
        cfg, model = read_trained(path, options)
        images = read_split(cfg.DATA.ROOT, cfg.DATA.VAL, num_classes=cfg.MODEL.NUM_CLASSES)
        return cls(cfg, model, images)

    def batches(self) -> list[Tensor]:
        """The first batches of the test set in a random order, which mixes the classes."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        files = tuple(self.images.files[number] for number in order)
        loader = val_loader(self.cfg, replace(self.images, files=files), Processes())
        readable = (pixels[unreadable == READABLE] for pixels, _, unreadable in loader)
        found = islice((pixels for pixels in readable if len(pixels)), BATCHES)
        return [pixels.to(self.cfg.MODEL.DEVICE) for pixels in found]


def evaluate_in_turn(contenders: Sequence[Contender]) -> list[Evaluation]:
    """The results of every classifier, with the speeds of `speeds_of`."""
    found = [
        evaluate(each.model, val_loader(each.cfg, each.images, Processes()), each.images)
        for each in contenders
    ]
    speeds = speeds_of(contenders)
    return [
        replace(each, images_per_second=speed) for each, speed in zip(found, speeds, strict=True)
    ]


@torch.no_grad()
def speeds_of(contenders: Sequence[Contender]) -> list[float]:
    """Images per second of every classifier, all of which take turns, after a warm-up."""
    of_sets: dict[str, list[Tensor]] = {}  # most classifiers of a table read the same batches
    batches = []
    for each in contenders:
        alike = str((each.cfg.DATA, each.cfg.INPUT, each.cfg.TEST, each.cfg.MODEL.NUM_CLASSES))
        if alike not in of_sets:
            of_sets[alike] = each.batches()
        batches.append(of_sets[alike])

    def arm(place: int) -> Any:
        model, own = contenders[place].model, batches[place]
        return lambda number: model(own[number % len(own)])

    with tqdm(total=WARMUP + BATCHES * REPEATS, desc="speed", unit="turn", leave=False) as bar:
        timings = time_interleaved(
            {str(place): arm(place) for place in range(len(contenders))},
            range(BATCHES),
            repeats=REPEATS,
            warmup=WARMUP,
            device=contenders[0].cfg.MODEL.DEVICE,
            progress=bar.update,
        )
    images = [sum(len(own[n % len(own)]) for n in range(BATCHES)) * REPEATS for own in batches]
    return [count / sum(timings.seconds[str(place)]) for place, count in enumerate(images)]
