"""The state that a checkpoint holds of its run, so that a resumed run is the same run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventStorage

from svit_det.detection.resumed import state_problem
from svit_det.detection.run_files import WINDOW, MetricsWriter
from svit_det.errors import InputError
from svit_det.settings import shown
from svit_det.training.finite import not_finite, optimizer_tensors, some_of
from svit_det.training.randomness import seed_all

logger = logging.getLogger(__name__)

STEP = 3
"""Keeps a step's random numbers apart from those of the images (`image_order`)."""


def identity(cfg: CfgNode) -> dict[str, Any]:
    """The settings that must be the same in a resumed run."""
    return {
        "MODEL.TOKEN_POLICY.NAME": cfg.MODEL.TOKEN_POLICY.NAME,
        "MODEL.TOKEN_POLICY.WRAPPERS": list(cfg.MODEL.TOKEN_POLICY.WRAPPERS),
        "SOLVER.OPTIMIZER": cfg.SOLVER.OPTIMIZER,
        "number of processes": comm.get_world_size(),
    }


def order_of(cfg: CfgNode) -> dict[str, Any]:
    """The settings on which the order of the images depends, besides the seed."""
    return {
        "SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH,
        "DATASETS.TRAIN": list(cfg.DATASETS.TRAIN),
        "DATALOADER.ASPECT_RATIO_GROUPING": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "DATALOADER.SAMPLER_TRAIN": cfg.DATALOADER.SAMPLER_TRAIN,
    }


def check_resume(trainer: Any, path: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another run, or with numbers that are not finite.

    `trainer` is the TokenTrainer of the run that goes on. Raises InputError that names the file and
    the difference.
    """
    cfg, state = trainer.cfg, checkpoint.get("trainer")
    before = _run_state(state)
    for key, now in identity(cfg).items():
        old = before.get("identity", {}).get(key, now)
        if old != now:
            raise InputError(
                f"{path}: a run with {key} {_brief(old)} cannot go on with {_brief(now)}; set "
                "it back, or begin anew with this file as MODEL.WEIGHTS and without --resume."
            )
    problem = state_problem(state, trainer._trainer.optimizer, trainer.scheduler)
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
    for key, now in order_of(cfg).items():
        if before.get("order", {}).get(key, now) != now:
            logger.warning("%s is not that of %s: the images come in another order.", key, path)


def _brief(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 60 else shown(value)


def _run_state(state: Any) -> Mapping[str, Any]:
    """What `RunState` has written; empty where its form is wrong, which `state_problem` names."""
    for key in ("hooks", "RunState"):
        state = state.get(key, {}) if isinstance(state, Mapping) else {}
    if not isinstance(state, Mapping):
        return {}
    parts = [state.get(key, {}) for key in ("identity", "order")]
    return state if all(isinstance(part, Mapping) for part in parts) else {}


class RunState(HookBase):
    """Seeds each step's random numbers, and holds the run's state for the next checkpoint."""

    def __init__(self, cfg: CfgNode, seed: int, metrics: MetricsWriter | None) -> None:
        self.seed = seed
        self._cfg = cfg
        self._metrics = metrics
        self._history: dict[str, Any] = {}
        self._resumed = False

    def before_train(self) -> None:
        """Continue the log from the checkpoint's step."""
        if self._metrics is not None:
            self._metrics.keep_until(self.trainer.start_iter - 1)
        for name, entry in self._history.items():
            for value, step in entry["values"]:
                hint = entry["smoothing_hint"]
                self.trainer.storage.put_scalar(name, value, smoothing_hint=hint, cur_iter=step)

    def before_step(self) -> None:
        """Seed the step: its random numbers depend on run, process and step alone."""
        seed_all(self.seed, STEP, comm.get_rank(), self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        """Plain values only, which a weights_only file may hold."""
        return {
            "seed": self.seed,
            "identity": identity(self._cfg),
            "order": order_of(self._cfg),
            "history": _history_of(self.trainer.storage),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the seed of the resumed run, and its last metrics."""
        if state["seed"] != self.seed and self._cfg.SEED >= 0:
            logger.warning("The run goes on with its own seed, %d.", state["seed"])
        self.seed = state["seed"]
        self._history = state["history"]


def _history_of(storage: EventStorage) -> dict[str, Any]:
    """The last values of every scalar, from which the log's running medians are computed."""
    hints = storage.smoothing_hints()
    return {
        name: {
            "values": [(float(value), int(step)) for value, step in history.values()[-WINDOW:]],
            "smoothing_hint": bool(hints[name]),
        }
        for name, history in storage.histories().items()
    }


class CatchUp(HookBase):
    """After a resume: does the evaluation and logging that the checkpoint's step still lacks."""

    def before_train(self) -> None:
        """Run them for the step before. CatchUp is the last hook, so that all others are ready."""
        step = self.trainer.start_iter - 1
        if step < 0:
            return
        self.trainer.iter = self.trainer.storage.iter = step
        for hook in self.trainer._hooks:
            if isinstance(hook, (hooks.EvalHook, hooks.PeriodicWriter)):
                hook.after_step()
        self.trainer.iter = self.trainer.storage.iter = step + 1
