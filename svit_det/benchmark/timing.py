"""Interleaved timing: arms take turns on the same inputs; a busy machine slows all arms alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The median and quartiles of one or more values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Timings:
    """Seconds per call; the i-th calls of all arms were made in a row, on the same input.

    The calls go through the inputs in their order, again and again.
    """

    seconds: dict[str, list[float]]

    def spread(self, arm: str) -> Spread:
        """Seconds per call of one arm."""
        return Spread.of(self.seconds[arm])

    def ratio(self, slow: str, fast: str, *, over: Sequence[float] = (1.0,)) -> Spread:
        """`slow` over `fast`, pair by pair, so that the machine's load cancels out.

        `over` holds a number for each input; each pair's ratio is divided by its input's number.
        """
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        ratios = [one / other for one, other in pairs]
        return Spread.of([ratio / number for ratio, number in zip(ratios, cycle(over))])


def time_interleaved(
    arms: Mapping[str, Callable[[Any], Any]],
    inputs: Sequence[Any],
    *,
    repeats: int = 3,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[], Any] | None = None,
    self_timed: Collection[str] = (),
) -> Timings:
    """Time every arm on every input, `repeats` times over: A B, B A, A B.

    The order is reversed each time, because an arm leaves its data in the caches for the next arm.
    The `warmup` rounds at the start, which cycle through the inputs, are thrown away. `progress` is
    called after each round, warm-up included. Call this function under `torch.no_grad()` or
    `inference_mode()`.

    The arms in `self_timed` run in another process and return their own seconds, so that the
    communication between the processes does not count.
    """
    device = torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    rounds = [inputs[number % len(inputs)] for number in range(warmup)] + list(inputs) * repeats
    order = list(arms)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would count as time of the running arm
    try:
        for number, given in enumerate(rounds):
            for name in order if number % 2 == 0 else reversed(order):
                _wait_for(device)
                start = clock()
                returned = arms[name](given)
                _wait_for(device)
                elapsed = returned if name in self_timed else clock() - start
                if number >= warmup:
                    seconds[name].append(elapsed)
            if progress is not None:
                progress()
    finally:
        if collecting:
            gc.enable()
    return Timings(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
