"""Checks the form and the numbers of a run's state in a checkpoint, before the run goes on with it.

detectron2 and PyTorch take over whatever stands there, and fail later or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from svit_det.errors import InputError
from svit_det.training.finite import not_finite, optimizer_tensors, some_of
from svit_det.training.optimizer_state import is_number, optimizer_problem
from svit_det.training.scaler_state import scaler_problem

LAST_STEP = 2**31


def check_state(path: str, state: Any, *, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Refuse a state of another form, or one with numbers that are not finite.

    `state` stands for the trainer in the checkpoint at `path`; `optimizer` and `scheduler` are
    those of the run that goes on. Raises InputError that names the file.
    """
    problem = state_problem(state, optimizer, scheduler)
    if problem:
        raise InputError(
            f"{path}: {problem}; go on with the settings of that run, write the name of an earlier "
            "checkpoint into last_checkpoint, or begin anew without --resume."
        )
    bad = not_finite(optimizer_tensors(state["_trainer"]["optimizer"]))
    if bad:
        raise InputError(
            f"{path}: its optimiser holds numbers that are not finite ({some_of(bad)}); write the "
            "name of an earlier checkpoint into last_checkpoint, or begin anew."
        )


def state_problem(state: Any, optimizer: torch.optim.Optimizer, scheduler: Any) -> str | None:
    """Why a run with this optimiser and scheduler cannot go on with `state`; None where it can.

    The reason is a clause about the file that holds the state. `state` is a trainer's `state_dict`.
    Checkpoints from before 2026-11-27 hold no RunState.
    """
    inner = state.get("_trainer") if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(inner, Mapping):
        return "it holds no state of a training"
    if not _is_count(state.get("iteration")) or not _is_count(inner.get("iteration", 0)):
        return "its step is no count"
    hooks = state.get("hooks", {})
    if not isinstance(hooks, Mapping) or not isinstance(inner.get("hooks", {}), Mapping):
        return "it holds no state of the training's hooks"
    if not all(isinstance(each, Mapping) for each in hooks.values()):
        return "it holds no state of the training's hooks"
    scaler = inner.get("grad_scaler", {})
    return (
        _schedule_problem(hooks.get("LRScheduler"), optimizer, scheduler, step=state["iteration"])
        or _run_problem(hooks.get("RunState"))
        or scaler_problem(scaler)
        or optimizer_problem(inner.get("optimizer"), optimizer, scaled=bool(scaler))
    )


def identity_in(state: Any) -> Mapping[str, Any]:
    """What `RunState` wrote about its run; empty where the form is wrong, see `state_problem`."""
    for key in ("hooks", "RunState", "identity"):
        state = state.get(key) if isinstance(state, Mapping) else None
    return state if isinstance(state, Mapping) else {}


def _schedule_problem(
    given: Mapping[str, Any] | None, optimizer: torch.optim.Optimizer, scheduler: Any, *, step: int
) -> str | None:
    if given is None:
        return None
    rates = given.get("base_lrs")
    if not isinstance(rates, list) or len(rates) != len(optimizer.param_groups):
        return "its schedule is one of other rates"
    if not all(map(is_number, rates)) or not _is_count(given.get("last_epoch")):
        return "its schedule holds numbers that cannot be meant"
    if not step <= given["last_epoch"] <= step + 1:
        return f"its schedule stands at step {given['last_epoch']}, where the run stands at {step}"
    if given.keys() - scheduler.state_dict().keys():
        return "its schedule is of another kind"
    return None


def _run_problem(given: Mapping[str, Any] | None) -> str | None:
    if given is None:
        return None
    seed = given.get("seed")
    if type(seed) is not int or not 0 <= seed < 2**64:
        return "its seed is no whole number from 0 up"
    if not all(isinstance(given.get(key, {}), Mapping) for key in ("identity", "order")):
        return "it does not say the settings of its run"
    history = given.get("history")
    if not isinstance(history, Mapping) or not all(map(_is_series, history.items())):
        return "the numbers of its log are no numbers"
    return None


def _is_series(named: tuple[Any, Any]) -> bool:
    name, series = named
    if not isinstance(name, str) or not isinstance(series, Mapping):
        return False
    values = series.get("values")
    return (
        isinstance(series.get("smoothing_hint"), bool)
        and isinstance(values, list)
        and all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and isinstance(pair[0], float)
            and _is_count(pair[1])
            for pair in values
        )
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LAST_STEP
