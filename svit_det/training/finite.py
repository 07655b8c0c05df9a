"""nan and infinite numbers: found by name, before they are used or saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from svit_det.errors import InputError


def not_finite(values: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with a nan or an infinite number in them, in their order."""
    return [name for name, value in values.items() if not _is_finite(value)]


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return True
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    # A sum needs one pass and no mask in memory. The sum is infinite or nan if any entry is. A sum
    # of finite entries may overflow too, so that the entries are then looked at one by one.
    return bool(torch.isfinite(value.sum()) or torch.isfinite(value).all())


def optimizer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an optimiser's `state_dict`, named by parameter number and quantity."""
    return dict(_tensors(state.get("state", {}), "parameter"))


def _tensors(values: Mapping[Any, Any], name: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{name} {key}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{name} {key}")


def some_of(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def check_finite(
    weights: Mapping[str, Tensor], *, source: str, model: Mapping[str, Tensor]
) -> None:
    """Refuse weights from a file with numbers that are not finite, or become so in `model`.

    `model`: the weights that they replace, by name. Raises InputError.
    """
    bad = not_finite(weights)
    if bad:
        raise InputError(f"{source}: holds numbers that are not finite in {some_of(bad)}.")
    cast = {
        name: value.to(model[name].dtype)
        for name, value in weights.items()
        if name in model and _may_overflow(value, model[name])
    }
    bad = not_finite(cast)
    if bad:
        raise InputError(
            f"{source}: holds numbers in {some_of(bad)} that are too large for the model's "
            f"precision, {str(model[bad[0]].dtype).removeprefix('torch.')}."
        )


def _may_overflow(value: Tensor, own: Tensor) -> bool:
    if not (value.is_floating_point() and own.is_floating_point()):
        return False
    return torch.finfo(value.dtype).max > torch.finfo(own.dtype).max


def check_losses(losses: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse losses that are not finite; call this before the optimiser uses their gradients.

    Raises InputError that names the step of the training and each such loss.
    """
    numbers = {name: value.detach().item() for name, value in losses.items()}
    bad = [f"{name} is {number}" for name, number in numbers.items() if not math.isfinite(number)]
    if bad:
        raise diverged(some_of(bad), step=step)


def diverged(what: str, *, step: int) -> InputError:
    """The error of a training that cannot go on because `what` is not finite."""
    return InputError(
        f"Step {step} of the training: {what}; this step changed no weights, and the last "
        "checkpoint stays. Look at the data, or lower SOLVER.BASE_LR."
    )
