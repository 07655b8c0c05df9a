"""TEST.EXPECTED_RESULTS: what an evaluation must give, as detectron2 states it for its recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from svit_det.errors import InputError


class NotExpected(InputError):
    """The results of an evaluation, which has ended well, are not those of the config."""


def check_expected(expected: Sequence[Sequence[Any]], results: Mapping[str, Any]) -> None:
    """Refuse results that are not those of the entries [task, metric, value, tolerance].

    detectron2's own check fails with a KeyError where there is no such task. Raises NotExpected
    that names the first entry.
    """
    for task, metric, value, tolerance in expected:
        found = results.get(task)
        actual = found.get(metric) if isinstance(found, Mapping) else None
        name = f"TEST.EXPECTED_RESULTS: {task} {metric}"
        if not isinstance(actual, (int, float)):
            raise NotExpected(f"{name} is not among the results; there are {_names(results)}.")
        if not math.isfinite(actual) or abs(actual - value) > tolerance:
            raise NotExpected(f"{name} is {actual:.4g}, not {value:g} to {tolerance:g}.")


def _names(results: Mapping[str, Any]) -> str:
    groups = {task: found for task, found in results.items() if isinstance(found, Mapping)}
    return "; ".join(f"{task} {', '.join(map(str, found))}" for task, found in groups.items())
