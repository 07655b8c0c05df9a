"""Checks what a checkpoint holds of an optimiser, before the optimiser takes it over.

PyTorch takes over whatever it is given: text as a rate, a moment of another shape, a negative
square. The training then fails at its first step, or goes on wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.training.finite import not_finite

LARGEST = 1e6
"""The largest rate, decay or other number of a group that can be meant."""
KEPT = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""What the optimisers keep for a parameter; AdamW is an Adam here."""
NEVER_NONE = KEPT[torch.optim.Adam]
"""SGD's buffer may be None: it is made with the first step that needs it."""
SQUARES = "exp_avg_sq"
OTHER = "its optimiser's state is of other parameters"


def optimizer_problem(
    state: Any, optimizer: torch.optim.Optimizer, *, scaled: bool = False
) -> str | None:
    """Why `optimizer` cannot take over `state`, its earlier `state_dict`; None where it can.

    The reason is a clause about the file that holds the state. A file is written after a step, so
    that an Adam has moments by then, unless its loss is `scaled` and the scaler skipped every step.
    Parameters without gradients have no moments, so that the file may lack some.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        return "it holds no state of an optimiser"
    groups = state.get("param_groups")
    own = optimizer.param_groups
    if not isinstance(groups, list) or len(groups) != len(own):
        return OTHER
    parameters: dict[int, nn.Parameter] = {}
    for given, group in zip(groups, own, strict=True):
        numbers = given.get("params") if isinstance(given, Mapping) else None
        if not isinstance(numbers, list) or len(numbers) != len(group["params"]):
            return OTHER
        problem = _group_problem(given, group)
        if problem:
            return problem
        parameters |= dict(zip(numbers, group["params"], strict=True))
    if isinstance(optimizer, torch.optim.Adam) and not state["state"] and not scaled:
        return "its optimiser holds nothing of the steps that were done"
    kept = next((keys for kind, keys in KEPT.items() if isinstance(optimizer, kind)), set())
    for number, entry in state["state"].items():
        if number not in parameters or not isinstance(entry, Mapping):
            return OTHER
        problem = _entry_problem(entry, parameters[number], kept)
        if problem:
            return f"its optimiser holds {problem} for parameter {number}"
    return None


def is_number(value: object) -> bool:
    """Whether `value` is a number that a rate, a decay or the like may have."""
    return type(value) in (int, float) and 0 <= value <= LARGEST  # type: ignore[operator]


def _group_problem(given: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    for key, value in own.items():
        if key == "params" or key not in given:  # other versions of PyTorch know other keys
            continue
        if type(value) in (int, float):
            good = is_number(given[key])
        elif isinstance(value, tuple):
            several = given[key] if isinstance(given[key], (list, tuple)) else ()
            good = len(several) == len(value) and all(is_number(e) and e < 1 for e in several)
        else:
            good = type(given[key]) is type(value) and bool(given[key] == value)
        if not good:
            return f"its optimiser holds a '{key}' that cannot be meant"
    return None


def _entry_problem(entry: Mapping[Any, Any], parameter: nn.Parameter, kept: set[str]) -> str | None:
    """What is wrong with the numbers that are kept for one parameter."""
    if entry and kept - entry.keys():
        return f"no '{min(kept - entry.keys())}'"
    for name, value in entry.items():
        if name == "step":
            if not _is_step(value):
                return "a 'step' that is no count"
        elif value is None and name in NEVER_NONE:
            return f"no {name!r}"
        elif value is not None and not _fits(value, parameter):
            return f"a {name!r:.40} of another kind or shape"
    squares = entry.get(SQUARES)
    if squares is not None and bool((squares < 0).any()):
        return "negative squares"
    return None


def _is_step(value: Any) -> bool:
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_meta or value.layout is not torch.strided:
            return False
        value = value.item()
    return type(value) in (int, float) and math.isfinite(value) and value >= 1


def _fits(value: Any, parameter: nn.Parameter) -> bool:
    if not isinstance(value, Tensor) or value.is_meta or value.layout is not torch.strided:
        return False
    if value.shape != parameter.shape or not value.is_floating_point():
        return False
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return False  # it repeats stored numbers, which a step cannot change one by one
    # Numbers that are nan or infinite in the file are left to a check that names them all.
    return value.element_size() > 1 and (
        not not_finite({"": value.to(parameter.dtype)}) or bool(not_finite({"": value}))
    )
