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

from svit_det.policies.base import TokenPolicy

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
        """The state at this moment."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)

    def restore(self) -> None:
        """Set all generators back to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside the with-block, a pass leaves buffers, attributes and random state as they were.

    The pass works on copies of all buffers (running means of batch norms, statistics of policies).
    The original tensors are put back, not overwritten: PyTorch would refuse the backward pass of an
    earlier forward pass whose saved tensors were overwritten. Attributes are the ones without a
    leading underscore, such as the running mean that RetinaNet in detectron2 keeps as a number.
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
    """Inside the with-block, everything after `net` draws random numbers from `state` on.

    A policy that samples has drawn more numbers in the first pass than in the greedy pass. Heads
    that sample boxes must draw the same numbers in both passes.
    """
    handle = net.register_forward_hook(lambda *_: state.restore())
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def greedy_pass(
    model: nn.Module, policy: TokenPolicy, run: Callable[[], Result], *, random: RandomState
) -> Result:
    """The result of `run` when `policy` decides as at inference and everything else trains.

    A budget of the policy has no part: it is for tests, and what is trained does not depend on it.
    `random` is the state before the first pass; see also `restored_after`.
    """
    training, budget = policy.training, policy.keep_ratio
    with undisturbed(model):
        random.restore()
        policy.eval()
        try:
            if budget is not None:
                policy.set_keep_ratio(None)
            return run()
        finally:
            policy.train(training)
            if budget is not None:
                policy.set_keep_ratio(budget)
