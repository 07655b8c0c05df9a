"""The state that a checkpoint holds of its training, so that a resumed one is the same training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svit_det.errors import InputError
from svit_det.training.finite import not_finite, optimizer_tensors, some_of
from svit_det.weights.files import write_checkpoint


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint to resume from, whole or not at all. Raises InputError.

    Numbers that are not finite are refused: the last good checkpoint then stays.
    """
    bad = _not_finite(state)
    if bad:
        step = state["epoch"] * state["steps_per_epoch"] - 1
        raise InputError(
            f"{path}: not written after step {step}, because numbers are not finite in "
            f"{some_of(bad)}; the last checkpoint stays. Train anew with a lower SOLVER.BASE_LR, "
            "or with SOLVER.CLIP_NORM 1.0."
        )
    write_checkpoint(state, path)


def _not_finite(state: Mapping[str, Any]) -> list[str]:
    """The names of weights, averaged weights and optimiser's numbers that are not finite."""
    averaged = {f"{name} (averaged)": value for name, value in state.get("ema", {}).items()}
    optimizer = optimizer_tensors(state["optimizer"])
    return not_finite({**state["model"], **averaged, **optimizer})
