"""The forms in which projects store weights: a bare dict, under a key, or under nested keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svit_det.errors import InputError

HOLDERS = ("model", "state_dict", "model_state_dict")
"""The keys under which weights are looked for."""
DEPTH = 3


def in_one_form(loaded: Any, *, source: str) -> dict[str, Any]:
    """The weights under "model". A file that has its weights there keeps its other entries.

    Raises InputError, naming `source`, for a file that holds no dense tensors by name, weights in
    two places, or weights under an unknown key.
    """
    weights, first = loaded, None
    for _ in range(DEPTH):
        if not isinstance(weights, dict) or is_weights(weights):
            break
        there = [word for word in HOLDERS if isinstance(weights.get(word), dict)]
        if len(there) > 1:
            raise InputError(
                f"{source}: holds weights under both '{there[0]}' and '{there[1]}'; save the ones "
                "that are meant alone."
            )
        if not there:
            break
        first = first or there[0]
        weights = weights[there[0]]
    if not isinstance(weights, dict) or not is_weights(weights):
        raise InputError(f"{source}: {_where_else(loaded)}.")
    for name, value in weights.items():
        kind = unusual(value)
        if kind:
            raise InputError(f"{source}: {name} is {kind} tensor; save its plain values.")
    return {**loaded, "model": weights} if first == "model" else {"model": weights}


def is_weights(value: dict[Any, Any]) -> bool:
    """Whether `value` holds tensors by name, at least one."""
    return bool(value) and all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in value.items()
    )


def _where_else(loaded: Any) -> str:
    """A message for a file whose weights are not under the known keys."""
    if isinstance(loaded, dict):
        for word, value in loaded.items():
            if isinstance(word, str) and isinstance(value, dict) and is_weights(value):
                return f"holds tensors under '{word[:40]}'; save what stands there alone"
    return "holds no tensors by name, itself or under 'model'"


def unusual(value: Tensor) -> str | None:
    """A name for a tensor that holds no plain values in memory; None for a plain tensor."""
    if value.device.type == "meta":
        return "an empty ('meta')"
    if value.layout is not torch.strided or value.is_nested:
        return "a sparse or nested"
    if value.is_quantized:
        return "a quantised"
    # Numbers of 8 bits and fewer are meant together with a scale, which only their writer knows.
    return "an 8-bit" if value.is_floating_point() and value.element_size() < 2 else None
