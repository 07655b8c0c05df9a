"""Compares the kind of stored numbers with the model's: PyTorch would cast without a word."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from svit_det.errors import InputError


def kind_of(value: Tensor) -> str:
    """The kind of a tensor's numbers; precisions of one kind may be cast into each other."""
    if value.dtype is torch.bool:
        return "true or false"
    if value.is_complex():
        return "complex numbers"
    return "real numbers" if value.is_floating_point() else "whole numbers"


def other_kinds(model: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """A phrase for each stored weight whose kind differs from the model's weight of that name."""
    return [
        f"{name} holds {kind_of(given[name])} for {kind_of(value)}"
        for name, value in model.items()
        if name in given and kind_of(given[name]) != kind_of(value)
    ]


def check_kinds(model: Mapping[str, Tensor], given: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse weights from a file that would be cast into another kind. Raises InputError."""
    wrong = other_kinds(model, given)
    if wrong:
        raise InputError(
            f"{source}: {'; '.join(wrong[:2])}; nothing is cast, so store the model's kind."
        )
