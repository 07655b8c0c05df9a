"""Measures the seconds of chosen methods while a model runs, summed by labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Label = Callable[..., Hashable]
"""A function from a call's arguments to the label of its time."""
Applies = Callable[..., bool]
"""A function from a call's arguments to whether its time is left out."""


@contextmanager
def method_clock(
    watched: Sequence[tuple[Any, str, Label]],
    device: torch.device | str,
    clock: Callable[[], float] = time.perf_counter,
    *,
    left_out: Sequence[tuple[Any, str, Applies]] = (),
) -> Iterator[dict[Hashable, float]]:
    """Time the methods (object, name, label) within the with-block.

    `left_out` lists methods (object or class, name, applies). If a watched method calls one of
    them, the time of this call is subtracted from the watched method's time. The clock waits for a
    GPU at both ends of a call, so that the whole run may take longer than without the clock.
    """
    on_gpu = torch.device(device).type == "cuda"
    spent: dict[Hashable, float] = {}
    taken_off: list[float] = []
    """Seconds to subtract, one entry for each watched call that is running."""

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize(device)
        return clock()

    def timed(run: Callable[..., Any], label: Label) -> Callable[..., Any]:
        def run_timed(*args: Any, **kwargs: Any) -> Any:
            taken_off.append(0.0)
            start = now()
            result = run(*args, **kwargs)
            seconds = now() - start - taken_off.pop()
            name = label(*args, **kwargs)
            spent[name] = spent.get(name, 0.0) + seconds
            return result

        return run_timed

    def untimed(run: Callable[..., Any], applies: Applies) -> Callable[..., Any]:
        def run_untimed(*args: Any, **kwargs: Any) -> Any:
            if not taken_off or not applies(*args, **kwargs):
                return run(*args, **kwargs)
            start = now()
            result = run(*args, **kwargs)
            taken_off[-1] += now() - start
            return result

        return run_untimed

    replaced = [(owner, name, timed(getattr(owner, name), label)) for owner, name, label in watched]
    replaced += [
        (owner, name, untimed(getattr(owner, name), applies)) for owner, name, applies in left_out
    ]
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in replaced]
    for owner, name, method in replaced:
        setattr(owner, name, method)
    try:
        yield spent
    finally:
        for owner, name, method in before:
            # An object gets its methods from its class: the replacement on the object is deleted.
            # A class holds its methods itself: the old method is put back.
            if method is None:
                delattr(owner, name)
            else:
                setattr(owner, name, method)
