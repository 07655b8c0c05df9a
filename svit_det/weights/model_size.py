"""Stops a model from being built that is far larger than the file of weights that describes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from svit_det.errors import InputError, says_no_memory

ALWAYS_ALLOWED = 200_000_000
"""Numbers that a model may have beside those of its file: a file may hold the trunk alone."""


@contextmanager
def in_proportion(path: str) -> Iterator[None]:
    """Build the model of the file at `path` inside the with-block.

    The config that a file of weights carries may ask for a model of any size. Raises InputError as
    soon as the model has many more numbers than the file can hold, before they are initialised,
    which is when they take up memory.
    """
    if not os.path.isfile(path):  # the code that reads the weights says so
        yield
        return
    # A file holds numbers of 2 bytes or more.
    room = os.path.getsize(path) // 2 + ALWAYS_ALLOWED
    refusal = InputError(
        f"{path}: its config describes a model far larger than this file; give the config that "
        "the weights were trained with."
    )

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal room
        room -= 0 if parameter is None else parameter.numel()
        if room < 0:
            raise refusal

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if says_no_memory(error):
            raise refusal from error
        raise
    finally:
        hook.remove()
