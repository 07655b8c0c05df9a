"""Freezing: parts of a network that stand still at some steps of a training."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from svit_det.errors import InputError
from svit_det.training.groups import begins_with


class Freezing:
    """Takes the gradients away from frozen parameters, after each backward pass.

    The optimiser leaves a parameter without a gradient alone: no step, no weight decay, and no
    entry in its state. The parameter stays part of the graph, as DDP needs it. `frozen` names the
    parts that stand still at a step, by the beginnings of parameters' names. Raises InputError for
    a beginning that no parameter has: for step 0 at once, for a later step when the step comes.
    """

    def __init__(self, model: nn.Module, frozen: Callable[[int], Collection[str]]) -> None:
        self._named = list(model.named_parameters())
        self._frozen = frozen
        self._members(frozen(0))

    def clear_gradients(self, step: int) -> None:
        """Call before the optimiser's step number `step`, counted from 0."""
        for parameter in self._members(self._frozen(step)):
            parameter.grad = None

    def _members(self, beginnings: Collection[str]) -> list[nn.Parameter]:
        members = []
        for beginning in beginnings:
            found = [each for name, each in self._named if begins_with(name, beginning)]
            if not found:
                raise InputError(f"no parameter begins with {beginning}.", setting="frozen")
            members += found
        return members
