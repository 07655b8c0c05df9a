"""Freezing: parts of a network that stand still during the first steps of a training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from svit_det.errors import InputError
from svit_det.training.groups import begins_with


class Freezing:
    """Takes the gradients away from frozen parameters, after each backward pass.

    A parameter without a gradient is left alone by the optimiser: no step, no weight decay, and no
    entry in its state. It stays part of the graph, which DDP counts on. `first_steps` says how many
    steps each part stands still, by the beginning of a parameter's name.
    """

    def __init__(self, model: nn.Module, first_steps: Mapping[str, int]) -> None:
        self._frozen: list[tuple[nn.Parameter, int]] = []
        for beginning, steps in first_steps.items():
            members = [
                parameter
                for name, parameter in model.named_parameters()
                if begins_with(name, beginning)
            ]
            if not members:
                raise InputError(f"no parameter begins with {beginning}.", setting="frozen_steps")
            self._frozen += [(parameter, steps) for parameter in members]

    def clear_gradients(self, step: int) -> None:
        """Before the optimiser's step number `step`, counted from 0."""
        for parameter, steps in self._frozen:
            if step < steps:
                parameter.grad = None
