"""The state that a checkpoint holds of its training, so that a resumed one is the same training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svit_det.classification.config import default_config
from svit_det.config.same_settings import changes, settings_of
from svit_det.errors import InputError, printable
from svit_det.settings import shown
from svit_det.training.finite import not_finite, optimizer_tensors, some_of
from svit_det.weights.files import read_checkpoint, write_checkpoint
from svit_det.weights.forms import is_weights, unusual

PARTS = {"optimizer": dict, "scaler": dict, "epoch": int, "steps_per_epoch": int, "config": str}
"""The kinds of what a checkpoint holds beside the weights."""
COUNTS = {
    "processes": "the number of processes",
    "images": "the number of training images",
    "steps_per_epoch": "the number of steps an epoch",
}
"""Numbers beside the config that must be the same in a resumed training. With another number of
processes, images would be mixed with others, and policies that sample would draw anew."""
MAY_CHANGE = frozenset(
    {
        *("MODEL.DEVICE", "DATA.ROOT", "DATA.NUM_WORKERS"),
        *("SOLVER.CHECKPOINT_EPOCHS", "OUTPUT_DIR"),
    }
)
"""Keys that do not change the result of a training."""
ANEW = "begin anew with --overwrite, or name another OUTPUT_DIR"


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


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint to resume from; nothing in the file is executed. Raises InputError."""
    try:
        state = read_checkpoint(str(path))
    except InputError as error:
        reason = error.message.removeprefix(f"{printable(path)}: ").partition(";")[0].rstrip(".")
        raise _refusal(path, reason) from error
    missing = [name for name, kind in PARTS.items() if type(state.get(name)) is not kind]
    averaged = state.get("ema")
    if averaged is not None and not (isinstance(averaged, dict) and is_weights(averaged)):
        missing.append("averaged weights")
    if not missing and not isinstance(state["optimizer"].get("state"), dict):
        missing.append("state of an optimiser")
    if missing:
        raise _refusal(path, f"it holds no {missing[0]}")
    kinds = ((name, unusual(value)) for name, value in _beside_the_weights(state).items())
    for name, kind in kinds:
        if kind:
            raise _refusal(path, f"{name} is {kind} tensor")
    bad = _not_finite(state)
    if bad:
        raise _refusal(path, f"it holds numbers that are not finite in {some_of(bad)}")
    return state


def check_resume(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another training.

    `before` and `now`: the config as text under "config", and the numbers that `COUNTS` names.
    Raises InputError that names the file and the first difference.
    """
    defaults = default_config().dump()
    settings = settings_of(before["config"], defaults=defaults, source=f"the config in {path}")
    now_set = settings_of(now["config"], defaults=defaults, source="this run's config")
    changed = changes(settings, now_set, may_change=MAY_CHANGE.__contains__)
    for key, name in COUNTS.items():
        if key in before and before[key] != now[key]:  # older checkpoints lack some
            changed.append((name, before[key], now[key]))
    if changed:
        what, old, new = changed[0]
        raise InputError(
            f"{path}: a training with {what} {shown(old)} cannot go on with {shown(new)}; set it "
            "back, or begin anew in another OUTPUT_DIR."
        )


def _refusal(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: not a checkpoint to resume from: {reason}; {ANEW}.")


def _not_finite(state: Mapping[str, Any]) -> list[str]:
    """The names of weights, averaged weights and optimiser's numbers that are not finite."""
    return not_finite({**state["model"], **_beside_the_weights(state)})


def _beside_the_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights and the optimiser's tensors, by names that tell them apart."""
    averaged = {f"{name} (averaged)": value for name, value in (state.get("ema") or {}).items()}
    return {**averaged, **optimizer_tensors(state["optimizer"])}
