"""Random numbers as a function of a training's progress: a resumed training draws the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*place: int) -> int:
    """A seed of 31 bits for a place such as (seed of the run, step, process)."""
    return int(np.random.SeedSequence((len(place), *place)).generate_state(1)[0] >> 1)


def seed_all(*place: int) -> None:
    """Seed Python, numpy and torch (on every device) for this place."""
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def drawn_at(*place: int) -> Iterator[None]:
    """Inside the with-block, Python, numpy and torch on the CPU draw from this place's seed.

    Afterwards the generators go on as if the block had drawn nothing.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])
