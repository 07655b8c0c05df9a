"""Shared by the tests of the report: two models on two made-up pictures with hostile names."""

import numpy as np
import pytest

from svit_det.report.page import Shown, render_page
from svit_det.report.statistics import ArmStatistics
from svit_det.tokens import TokenGrid
from svit_det.visualization import Objects, UsagePicture

HOSTILE = '<script>alert("x")</script>&'


def made_up(number, seed, *, annotated=True):
    random = np.random.default_rng(seed)
    image = random.integers(0, 255, (60, 90, 3), dtype=np.uint8)
    keep = random.random((6, 8, 12)) < 0.5
    keep[:2] = True
    masks = np.zeros((2, 60, 90), bool)
    masks[0, 4:20, 6:30] = True
    masks[1, 30:55, 40:80] = True
    found = Objects(
        boxes=np.array([[6.0, 4, 30, 20], [40, 30, 80, 55]]),
        classes=np.array([0, 1]),
        scores=np.array([0.9, 0.6]),
        masks=masks,
        names=("nut", HOSTILE),
    )
    return UsagePicture(
        image=image,
        keep=keep,
        grid=TokenGrid((60, 90), 8),
        name=f"{number}{HOSTILE}.png",
        found=found,
        annotated=found.pick(np.array([1])) if annotated else None,
        macs=(5.0, 10.0),
    )


@pytest.fixture
def picture_of():
    """Factory: a made-up picture, `picture_of(number, seed, annotated=True)`."""
    return made_up


@pytest.fixture
def hostile():
    """A name with HTML in it."""
    return HOSTILE


@pytest.fixture
def page_of():
    """Factory: the page of `arms` models on `count` pictures."""

    def make(arms=2, count=2, **options):
        statistics = [
            ArmStatistics(label=f"arm {a}{HOSTILE}", about="(made up)") for a in range(arms)
        ]
        shown = []
        for number in range(count):
            pictures = [made_up(number, 10 * number + a, **options) for a in range(arms)]
            for arm, picture in zip(statistics, pictures, strict=True):
                arm.add(picture)
            shown.append(Shown(name=pictures[0].name, pictures=pictures))
        return render_page(statistics, shown, title=f"About {HOSTILE}", facts=[f"A {HOSTILE}."])

    return make
