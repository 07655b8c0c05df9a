"""The whole training, from a config to trained weights: epochs, checkpoints, evaluation, logs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from svit_det.classification.build import build_classifier
from svit_det.classification.diary import Diary
from svit_det.classification.evaluation import Evaluation, evaluate
from svit_det.classification.folder import check_same_classes, read_split
from svit_det.classification.images import READABLE, seed_all, seed_of
from svit_det.classification.loading import Batch, EpochSampler, train_loader, val_loader
from svit_det.classification.model import TokenClassifier
from svit_det.classification.processes import Processes
from svit_det.classification.recipe import (
    build_ema,
    build_optimizer,
    build_schedule,
    freeze_for_good,
    frozen_at,
    policy_time,
    schedule_time,
)
from svit_det.classification.run_files import FINAL, LAST
from svit_det.classification.run_state import ANEW, check_resume, read_state, write_state
from svit_det.classification.step import TrainingStep
from svit_det.classification.targets import Targets
from svit_det.classification.weights import (
    load_teacher,
    load_weights,
    load_whole,
    save_weights,
)
from svit_det.errors import InputError, printable
from svit_det.settings import shown
from svit_det.training.freezing import Freezing
from svit_det.training.optimizer_state import optimizer_problem
from svit_det.training.scaler_state import scaler_problem

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the classifier of a config, in this process and together with the other processes.

    Every step draws from a seed of its own, so that a resumed training goes on like a training
    without an interruption.
    """

    def __init__(self, cfg: Any, where: Processes, device: torch.device) -> None:
        self.cfg, self.where, self.device = cfg, where, device
        solver, data = cfg.SOLVER, cfg.DATA
        classes = cfg.MODEL.NUM_CLASSES
        self.images = read_split(data.ROOT, data.TRAIN, num_classes=classes)
        self.val_images = read_split(data.ROOT, data.VAL, num_classes=classes)
        check_same_classes(self.images, self.val_images)
        self.loader = train_loader(cfg, self.images, where)
        self.val_loader = val_loader(cfg, self.val_images, where)
        self.steps_per_epoch = len(self.loader)
        self.times = policy_time(solver, solver.EPOCHS * self.steps_per_epoch, self.steps_per_epoch)
        seed_all(solver.SEED)
        self.net = build_classifier(cfg)
        freeze_for_good(solver, self.net)
        if cfg.MODEL.WEIGHTS:
            load_weights(self.net, cfg.MODEL.WEIGHTS, for_training=True)
        teacher = self._teacher()
        self.net.to(device).train()
        self.optimizer = build_optimizer(solver, self.net)
        self.schedule = build_schedule(solver, self.optimizer, self.steps_per_epoch)
        self.ema = build_ema(solver, self.net)
        freezing = Freezing(self.net, lambda time: frozen_at(solver, self.net, time, self.times))
        self.step = TrainingStep(
            solver=solver,
            model=in_parallel(self.net, where, device),
            net=self.net,
            optimizer=self.optimizer,
            targets=Targets(cfg.INPUT, classes),
            freezing=freezing,
            teacher=teacher,
            device=device,
        )
        self.epoch = 0
        self.unreadable: set[int] = set()

    def _teacher(self) -> TokenClassifier | None:
        solver = self.cfg.SOLVER
        if not (self.net.trunk.policy.needs_teacher or solver.LOGIT_DISTILL_WEIGHT):
            if solver.TEACHER:
                raise InputError(
                    f"SOLVER.TEACHER {solver.TEACHER}: nothing learns from a teacher here; give "
                    "SOLVER.LOGIT_DISTILL_WEIGHT or the policy's DISTILL_WEIGHT a weight above 0, "
                    "or leave SOLVER.TEACHER empty."
                )
            return None
        return load_teacher(self.net, solver.TEACHER or self.cfg.MODEL.WEIGHTS).to(self.device)

    @property
    def shipped(self) -> TokenClassifier:
        """The model that is evaluated and saved: the averaged model, if there is one."""
        return self.net if self.ema is None else self.ema.module

    # ------------------------------------------------------------------ the whole training

    def train(self) -> Evaluation:
        """Train to the last epoch; return the results of the last evaluation.

        A resumed training begins with the evaluation of its checkpoint, if one is due: a kill may
        have come between the two.
        """
        solver, folder = self.cfg.SOLVER, Path(self.cfg.OUTPUT_DIR)
        with Diary(folder, self.where, first_step=self._num_steps()) as diary:
            found = self._evaluate_if_due(diary) if self.epoch else None
            while self.epoch < solver.EPOCHS:
                self._run_epoch(diary)
                self.epoch += 1
                if self.epoch == solver.EPOCHS or self.epoch % solver.CHECKPOINT_EPOCHS == 0:
                    diary.flush()
                    self._save()
                found = self._evaluate_if_due(diary)
        assert found is not None  # the last epoch is always evaluated
        if self.where.is_first:
            path = folder / FINAL
            save_weights(self.shipped, path, self.cfg, self.images.classes)
            logger.info("Weights written to %s", path)
        return found

    def _num_steps(self) -> int:
        """Number of steps so far, between two epochs."""
        return self.epoch * self.steps_per_epoch

    def _evaluate_if_due(self, diary: Diary) -> Evaluation | None:
        """Evaluate and report, if this is due after so many epochs."""
        if self.epoch != self.cfg.SOLVER.EPOCHS and self.epoch % self.cfg.SOLVER.EVAL_EPOCHS:
            return None
        found = self.evaluate()
        diary.evaluated(found, self.epoch, self._num_steps())
        return found

    def evaluate(self) -> Evaluation:
        """Evaluate the weights that would be saved, on the validation images."""
        return evaluate(self.shipped, self.val_loader, self.val_images, self.where)

    def _run_epoch(self, diary: Diary) -> None:
        solver = self.cfg.SOLVER
        sampler = self.loader.sampler
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(self.epoch)
        bar = tqdm(
            self._batches(self.loader),
            total=self.steps_per_epoch,
            desc=f"epoch {self.epoch + 1}/{solver.EPOCHS}",
            unit="step",
            disable=not self.where.is_first,
        )
        for number, (images, labels) in enumerate(bar):
            step = self.epoch * self.steps_per_epoch + number
            self._seed(step)
            self.schedule.step(schedule_time(solver, step, self.steps_per_epoch))
            time = policy_time(solver, step, self.steps_per_epoch)
            losses, record, told = self.step(
                images, labels, number=step, time=time, times=self.times
            )
            if self.ema is not None:
                self.ema.update(self.net)
            if diary.is_due(number, self.steps_per_epoch):
                bar.set_postfix(loss=f"{float(torch.stack([*losses.values()]).sum()):.3f}")
                rate = self.optimizer.param_groups[0]["lr"]
                diary.trained(step, losses, record, told, rate)

    def _batches(self, loader: DataLoader[Batch]) -> Any:
        """Batches on the device. The log names and counts each unreadable file once."""
        for images, labels, unreadable in loader:
            for number in unreadable[unreadable != READABLE].tolist():
                if number not in self.unreadable:
                    self.unreadable.add(number)
                    logger.warning(
                        "%s cannot be read; another image takes its place (%d so far).",
                        printable(self.images.files[number][0]),
                        len(self.unreadable),
                    )
            yield (
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )

    def _seed(self, step: int) -> None:
        """Seed this process for this step; a resumed training thus draws the same numbers."""
        seed = seed_of(self.cfg.SOLVER.SEED, step, self.where.rank)
        seed_all(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    # ------------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        if not self.where.is_first:
            return
        state: dict[str, Any] = {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "epoch": self.epoch,
            **self._identity(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        write_state(state, Path(self.cfg.OUTPUT_DIR) / LAST)

    def _identity(self) -> dict[str, Any]:
        """What must be the same in a resumed training."""
        return {
            "config": self.cfg.dump(),
            "processes": self.where.count,
            "images": len(self.images),
            "steps_per_epoch": self.steps_per_epoch,
        }

    def resume(self) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, or begin where there is none.

        Raises InputError for a checkpoint of another config, of a set of another size, or of
        another number of processes.
        """
        path = Path(self.cfg.OUTPUT_DIR) / LAST
        if not path.is_file():
            logger.info("%s: nothing to resume, the training begins.", path)
            return
        state = read_state(path)
        check_resume(path, state, self._identity())
        self._restore(state, path)

    def _restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Take over what a checkpoint holds. Raises InputError for parts of another model."""
        load_whole(self.net, state["model"], source=str(path))
        if self.ema is not None:
            averaged = state.get("ema") or {}
            load_whole(self.ema.module, averaged, source=f"{path}, averaged weights")
        scaler = state["scaler"]
        problem = scaler_problem(scaler) or optimizer_problem(
            state["optimizer"], self.optimizer, scaled=bool(scaler)
        )
        if problem:
            raise InputError(f"{path}: {problem}; {ANEW}.")
        if not 0 <= state["epoch"] <= self.cfg.SOLVER.EPOCHS:
            raise InputError(
                f"{path}: stands after epoch {shown(state['epoch'])}, where there are "
                f"{self.cfg.SOLVER.EPOCHS}; {ANEW}."
            )
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where it was written without loss scaling
            self.step.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]


def in_parallel(
    net: TokenClassifier, where: Processes, device: torch.device
) -> TokenClassifier | DistributedDataParallel:
    """The model under DDP where several processes train."""
    if where.count == 1:
        return net
    # All processes track the same statistics, so buffers need not be sent around at every step.
    # Newer versions of torch have another name for this option and warn about the old name.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {word: False}
    return DistributedDataParallel(
        net, device_ids=[device] if device.type == "cuda" else None, **options
    )
