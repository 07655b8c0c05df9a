"""A second pass that decides as at inference, for policies with a self-critical baseline.

Source of the idea: self-critical sequence training (Rennie et al. 2017), as IA-RED2 (Pan et al.
2021) uses it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Result = TypeVar("Result")


@dataclass(frozen=True)
class RandomState:
    """The state of every random number generator that a training draws from."""

    python: Any
    numpy: Any
    cpu: Tensor
    gpus: list[Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """As it is at this moment."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)

    def restore(self) -> None:
        """Go back to it."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """What runs inside the with-block leaves buffers, attributes and random state as they were.

    The block works on copies of all buffers (running means of batch norms, statistics of policies).
    The originals are put back as they are, not overwritten: a first pass that still waits for its
    backward would take that for a change of what it saved. Attributes are those without an
    underscore, such as the running mean that detectron2's RetinaNet keeps as a plain number.
    """
    drawn = RandomState.now()
    originals = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    attributes = [
        (module, {name: value for name, value in vars(module).items() if name[0] != "_"})
        for module in model.modules()
    ]
    for module, name, buffer in originals:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in originals:
            module._buffers[name] = buffer
        for module, values in attributes:
            vars(module).update(values)
        drawn.restore()


@contextmanager
def random_states_after(net: nn.Module) -> Iterator[list[RandomState]]:
    """Collect the random state at the end of each pass of `net` inside the with-block."""
    states: list[RandomState] = []
    handle = net.register_forward_hook(lambda *_: states.append(RandomState.now()))
    try:
        yield states
    finally:
        handle.remove()


@contextmanager
def restored_after(net: nn.Module, state: RandomState) -> Iterator[None]:
    """Inside the with-block, what follows `net` draws as it did from `state` on.

    A policy that samples has drawn more numbers in the first pass than in the greedy one; heads
    that sample boxes must not differ for that.
    """
    handle = net.register_forward_hook(lambda *_: state.restore())
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def greedy_pass(
    model: nn.Module, policy: nn.Module, run: Callable[[], Result], *, random: RandomState
) -> Result:
    """What `run` returns when `policy` decides as at inference and all else trains.

    `random` is the state before the first pass; see also `restored_after`.
    """
    training = policy.training
    with undisturbed(model):
        random.restore()
        policy.eval()
        try:
            return run()
        finally:
            policy.train(training)
