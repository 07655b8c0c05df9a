"""Optimiser groups: which parameters get weight decay, and which learn at another rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from svit_det.errors import InputError


def parameter_groups(
    model: nn.Module,
    *,
    rate: float,
    weight_decay: float,
    no_weight_decay: Sequence[str] = (),
    rate_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for an optimiser.

    A parameter gets no weight decay where its full name contains one of `no_weight_decay` as a
    substring, as in the original's recipe. `rate_factors` maps beginnings of names to factors: a
    parameter learns at `rate` times the factor of the longest matching beginning, or at `rate`
    where none matches. Groups are ordered by factor, the unchanged rate first; for each factor the
    group with weight decay comes before the group without.

    Raises InputError for a factor below 0 and for a name that no parameter begins with.
    """
    factors = dict(rate_factors or {})
    _check(factors, [name for name, _ in model.named_parameters()])
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for factor in (1.0, *factors.values()):
        groups.setdefault((factor, weight_decay), [])
        groups.setdefault((factor, 0.0), [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = any(word in name for word in no_weight_decay)
            factor = _of_longest(name, factors, default=1.0)
            groups[factor, 0.0 if spared else weight_decay].append(parameter)
    described = []
    for (factor, decay), members in groups.items():
        group: dict[str, Any] = {"params": members, "weight_decay": decay}
        if factor != 1:
            group["lr"] = rate * factor
        described.append(group)
    return described


def name_of(part: nn.Module, model: nn.Module) -> str:
    """The dotted name of `part` inside `model`; "" for the model itself."""
    return next(name for name, module in model.named_modules() if module is part)


def named_from(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Names inside a network -> names in the model that holds it under `prefix`."""
    return {f"{prefix}.{name}" if prefix else name: value for name, value in values.items()}


def begins_with(name: str, beginning: str) -> bool:
    """Whether `beginning` is the whole dotted `name`, or the part before one of its dots."""
    return name == beginning or name.startswith(f"{beginning}.")


def _of_longest(name: str, factors: Mapping[str, float], *, default: float) -> float:
    found = [each for each in factors if begins_with(name, each)]
    return factors[max(found, key=len)] if found else default


def _check(factors: Mapping[str, float], names: Iterable[str]) -> None:
    names = list(names)
    for beginning, factor in factors.items():
        if not factor >= 0:
            raise InputError(f"{beginning}: {factor} must be 0 or more.", setting="rate_factors")
        if not any(begins_with(name, beginning) for name in names):
            raise InputError(f"no parameter begins with {beginning}.", setting="rate_factors")
