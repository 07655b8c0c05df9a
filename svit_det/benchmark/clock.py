"""Seconds that chosen methods take while a model runs, summed under labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Label = Callable[..., Hashable]
"""From a call's arguments to what its time is booked under."""


@contextmanager
def method_clock(
    watched: Sequence[tuple[Any, str, Label]],
    device: torch.device | str,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[Hashable, float]]:
    """Time the methods (object, name, label) within the with-block.

    A GPU is waited for at both ends of a call, so that the whole may take longer than without.
    """
    on_gpu = torch.device(device).type == "cuda"
    spent: dict[Hashable, float] = {}

    def timed(run: Callable[..., Any], label: Label) -> Callable[..., Any]:
        def run_timed(*args: Any, **kwargs: Any) -> Any:
            if on_gpu:
                torch.cuda.synchronize(device)
            start = clock()
            result = run(*args, **kwargs)
            if on_gpu:
                torch.cuda.synchronize(device)
            name = label(*args, **kwargs)
            spent[name] = spent.get(name, 0.0) + clock() - start
            return result

        return run_timed

    for owner, name, label in watched:
        setattr(owner, name, timed(getattr(owner, name), label))
    try:
        yield spent
    finally:
        for owner, name, _ in watched:
            delattr(owner, name)
