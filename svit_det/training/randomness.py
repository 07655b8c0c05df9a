"""Random numbers as a function of where a training stands, so that a resumed one draws the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*place: int) -> int:
    """A seed of 31 bits for a place such as (seed of the run, step, process); each has its own."""
    return int(np.random.SeedSequence((len(place), *place)).generate_state(1)[0] >> 1)


def seed_all(*place: int) -> None:
    """Begin anew, for this place, what Python, numpy and torch draw, on every device."""
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def drawn_at(*place: int) -> Iterator[None]:
    """Inside the with-block, draws are those of this place; afterwards all goes on as before."""
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
