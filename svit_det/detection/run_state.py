"""The state that a checkpoint holds of its run, so that a resumed run is the same run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventStorage

from svit_det.detection.resume import counts_of
from svit_det.detection.run_files import WINDOW, MetricsWriter
from svit_det.training.randomness import seed_all

logger = logging.getLogger(__name__)

STEP = 3
"""Keeps a step's random numbers apart from those of the images (`image_order`)."""


class RunState(HookBase):
    """Seeds each step's random numbers, and holds the run's state for the next checkpoint."""

    def __init__(
        self, cfg: CfgNode, *, seed: int, images: int, metrics: MetricsWriter | None
    ) -> None:
        """images: the number of training images."""
        self.seed = seed
        self._cfg = cfg
        self._images = images
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
            "identity": counts_of(self._images),
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
