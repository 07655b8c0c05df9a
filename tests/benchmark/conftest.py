"""Shared by the tests of the benchmarks."""

import pytest


class Ticks:
    """A clock that advances by one at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def ticks():
    """Factory: a fresh clock of ticks."""
    return Ticks
