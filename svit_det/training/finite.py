"""nan and infinite numbers: found by name, before they are used or saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def not_finite(values: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with a nan or an infinite number in them, in their order."""
    return [name for name, value in values.items() if not _is_finite(value)]


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return True
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
