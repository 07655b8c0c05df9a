"""The size of what a file of weights holds, measured before anything reads it.

A pickle may name one value many times, and even inside itself: a file of some hundred bytes can
stand for a list of 2 ** 60 entries, or for a tensor of 2 ** 40 numbers that all are the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svit_det.errors import InputError

MOST_VALUES = 1_000_000
"""Most values of a file, each counted as often as it is named; a checkpoint of a large model and
its optimiser has some ten thousand."""
DEEPEST = 50
"""Most lists and dicts inside each other."""
LARGEST_TIMES, ALWAYS_ALLOWED = 8, 1 << 28
"""Tensors may repeat stored numbers up to LARGEST_TIMES the file's size, or up to these bytes."""
MOST_SAID = 200_000
"""Most values of a description, which holds a name for each class."""
LONGEST_SAID = 1_000_000
"""Most characters of all texts and whole numbers of a description."""


def check_size(loaded: Any, *, source: str) -> None:
    """Raise InputError, naming `source`, for content that is larger than a file can mean."""
    room = max(LARGEST_TIMES * Path(source).stat().st_size, ALWAYS_ALLOWED)
    for value in _leaves(loaded, MOST_VALUES, source):
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
            room -= math.prod(value.shape) * value.element_size()
            if room < 0:
                raise InputError(
                    f"{source}: its tensors repeat stored numbers until they are many times the "
                    "file's size, which no training does."
                )


def check_description(said: Mapping[Any, Any], *, source: str) -> None:
    """Raise InputError unless `said` holds plain values, and not more than can be meant."""
    room = LONGEST_SAID
    for value in _leaves(said, MOST_SAID, source):
        if not isinstance(value, (str, int, float, type(None))):
            raise InputError(
                f"{source}: its description holds a {type(value).__name__}, not plain values only."
            )
        room -= len(value) if isinstance(value, str) else 0
        room -= value.bit_length() if isinstance(value, int) else 0
        if room < 0:
            raise InputError(f"{source}: a description of that size cannot be meant.")


def _leaves(content: Any, most: int, source: str) -> Iterator[Any]:
    """Everything in lists and dicts, keys too, as often as it is named. Raises InputError."""
    waiting = [(content, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST:
            raise InputError(f"{source}: its lists and dicts are nested too deeply.")
        if count > most:
            raise InputError(f"{source}: more than {most:,} values in it cannot be meant.")
        if isinstance(value, Mapping):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += [(each, depth + 1) for each in value]
        else:
            yield value
