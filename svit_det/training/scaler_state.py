"""Checks what a checkpoint holds of a loss scaler, before the scaler takes it over.

PyTorch takes over whatever it is given. A scale that is text, zero or not finite then fails at the
first step, or spoils the gradients of every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _is_above(least: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least < value <= 1e300


def _is_whole_from(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value < 2**31


MEANT: Mapping[str, Callable[[Any], bool]] = {
    "scale": _is_above(0),
    "growth_factor": _is_above(1),
    "backoff_factor": lambda value: type(value) is float and 0 < value < 1,
    "growth_interval": _is_whole_from(1),
    "_growth_tracker": _is_whole_from(0),
}
"""What a `torch.amp.GradScaler` writes, and which values it can have written."""


def scaler_problem(state: Any) -> str | None:
    """Why a loss scaler cannot take over `state`, its earlier `state_dict`; None where it can.

    The reason is a clause about the file that holds the state. An empty state is that of a run
    without loss scaling.
    """
    if not isinstance(state, Mapping):
        return "it holds no state of a loss scaler"
    for key, is_meant in MEANT.items() if state else ():
        if not is_meant(state.get(key)):
            return f"its loss scaler holds a '{key}' that cannot be meant"
    return None
