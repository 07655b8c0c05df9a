"""Images per second: of one process on random batches, or of several processes together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from svit_det.benchmark.timing import Timings
from svit_det.benchmark.worker import Worker


def images_per_second(timings: Timings, batch_size: int) -> dict[str, dict[str, float]]:
    """By arm, `mean` and standard deviation `std` over the calls; 0 for a single call."""
    found = {}
    for arm, seconds in timings.seconds.items():
        rates = [batch_size / each for each in seconds]
        spread = statistics.stdev(rates) if len(rates) > 1 else 0.0
        found[arm] = {"mean": statistics.fmean(rates), "std": spread}
    return found


def time_together(
    workers: Sequence[Worker],
    arms: Sequence[str],
    *,
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[], Any] | None = None,
) -> Timings:
    """Seconds in which all workers run the same arm on their inputs, until the last has finished.

    The arms take turns, and their order is reversed each time. The `warmup` rounds at the start are
    thrown away.
    """
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(warmup + repeats):
        for arm in arms if number % 2 == 0 else reversed(arms):
            start = clock()
            for worker in workers:
                worker.send(do="run all", arm=arm)
            for worker in workers:
                worker.receive()
            if number >= warmup:
                seconds[arm].append(clock() - start)
        if progress is not None:
            progress()
    return Timings(seconds)


def speed_of_batches(
    timings: Timings, batch_size: int, num_batches: int
) -> dict[str, dict[str, float]]:
    """Images per second by arm: `mean` and standard deviation `std` over the batches.

    The speed of a batch is taken over all its calls together, as in figure 1 of SViT's
    supplementary.
    """
    found = {}
    for arm, seconds in timings.seconds.items():
        rates = []
        for number in range(num_batches):
            own = seconds[number::num_batches]
            rates.append(batch_size * len(own) / sum(own))
        spread = statistics.stdev(rates) if num_batches > 1 else 0.0
        found[arm] = {"mean": statistics.fmean(rates), "std": spread}
    return found
