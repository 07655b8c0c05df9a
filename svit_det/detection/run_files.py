"""The files of a run beside its checkpoints: written whole, and never over a finished run."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, get_event_storage

from svit_det.detection.run_log import log_into
from svit_det.errors import InputError
from svit_det.files import DISK, remove, try_writing, write_whole
from svit_det.results import finite
from svit_det.training.run_folder import (
    LOCK,
    refuse_held,
    refuse_no_files,
    refuse_no_text,
    refuse_parent_in,
    remove_all_but,
)

LAST, FINAL = "last_checkpoint", "model_final.pth"
RESULTS, CONFIG = "results.json", "config.yaml"
METRICS, USAGE = "metrics.json", "token_usage.json"
WEIGHTS = (*("model_" + "[0-9]" * digits + ".pth" for digits in (7, 8, 9)), FINAL)
"""Patterns of the names that a run gives its checkpoints, and no other file of a user's."""
WRITTEN = (LAST, FINAL, METRICS, RESULTS, USAGE, CONFIG, "log.txt", LOCK)
"""Files that a run reads, adds to or replaces."""
OF_A_RUN = (LAST, METRICS, RESULTS, USAGE, *WEIGHTS)
"""Files of an earlier run that a new run in the same folder would mix with its own. The pointer to
the last checkpoint comes first."""
PREDICTIONS = "coco_instances_results.json"
WINDOW = 20
"""Number of steps of detectron2's running median."""


def check_folder(
    folder: str, *, resume: bool, overwrite: bool, evaluates: bool = False, begins_from: str = ""
) -> None:
    """Refuse a folder that cannot be written to, and one that holds a training already.

    Also refuses weights to begin from, `begins_from`, that the training would write over; "" stands
    for none. Makes a missing folder. Raises InputError.
    """
    if not folder:
        raise InputError("OUTPUT_DIR is empty; name a folder for what the run writes.")
    refuse_no_text(folder)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        try_writing(place)
    except (OSError, ValueError) as error:
        raise InputError(f"OUTPUT_DIR {folder}: cannot be written ({error}).") from error
    refuse_no_files(place, WRITTEN)
    held = [path.name for path in _of_a_run(place) if path.suffix == ".pth" or path.name == LAST]
    if not (resume or overwrite or evaluates):
        refuse_held(folder, held)
    if not evaluates:
        refuse_parent_in(folder, begins_from, WEIGHTS)


def check_sets(cfg: CfgNode) -> None:
    """Refuse a set whose json would be replaced or removed by a file of the run."""
    written = [Path(cfg.OUTPUT_DIR) / name for name in (LAST, METRICS, RESULTS, USAGE, PREDICTIONS)]
    for name, json_file, _ in cfg.DATASETS.COCO_FORMAT:
        for path in written:
            if all(map(os.path.exists, (path, json_file))) and path.samefile(json_file):
                raise InputError(
                    f"OUTPUT_DIR {cfg.OUTPUT_DIR}: {path.name} is the json of the set {name}, and "
                    "no run replaces it; name another folder."
                )


def clear_folder(cfg: CfgNode) -> None:
    """Remove the files of an earlier training from OUTPUT_DIR, the checkpoint's pointer first.

    The weights with which the new training begins stay.
    """
    remove_all_but([cfg.MODEL.WEIGHTS], _of_a_run(Path(cfg.OUTPUT_DIR)))


def _of_a_run(folder: Path) -> list[Path]:
    return [path for name in OF_A_RUN for path in sorted(folder.glob(name)) if path.is_file()]


@contextmanager
def said_about_the_disk(folder: str) -> Iterator[None]:
    """Inside the with-block, an error of a full or broken disk becomes an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*DISK, errno.EIO):
            raise
        raise InputError(f"{folder}: cannot be written ({error.strerror}).") from error


class MetricsWriter(EventWriter):
    """Writes detectron2's metrics.json, one JSON object a line. Each line is written whole.

    A number that is not finite is written as null.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last_step = -1
        """The last step that has been written."""

    def write(self) -> None:
        """Append the new steps. Raises InputError where the file cannot be written."""
        values: dict[int, dict[str, Any]] = {}
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if step > self.last_step:
                values.setdefault(step, {"iteration": step})[name] = value
        if not values:
            return
        lines = [
            json.dumps(finite(values[step]), sort_keys=True, allow_nan=False) + "\n"
            for step in values
        ]
        _append(self.path, "".join(lines).encode())
        self.last_step = max(values)

    def keep_until(self, step: int) -> None:
        """Remove the lines of later steps, and an unfinished line. Raises InputError."""
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            with write_whole(self.path) as partial:
                partial.write_bytes(b"".join(kept))
        self.last_step = max(map(_step_of, kept), default=-1)


def _step_of(line: bytes) -> float:
    """The step of a line; infinite for an unfinished line."""
    try:
        return int(json.loads(line)["iteration"]) if line.endswith(b"\n") else math.inf
    # An infinite step, or a line of nested lists, is no line of ours either.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _append(path: Path, content: bytes) -> None:
    before = path.stat().st_size if path.is_file() else None
    try:
        with open(path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            os.truncate(path, before)
        raise InputError(f"{path}: cannot be written ({error.strerror or error}).") from error


class WholeCOCOEvaluator(COCOEvaluator):
    """COCOEvaluator that writes whole files; the AP of a model without any detection is 0."""

    def evaluate(self, img_ids: Any = None) -> Any:
        """As COCOEvaluator's `evaluate`. Raises InputError where its files cannot be written."""
        folder = self._output_dir
        if not folder:
            return super().evaluate(img_ids)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".evaluation.partial.") as beside:
                self._output_dir = beside
                results = super().evaluate(img_ids)
                for path in sorted(Path(beside).iterdir()):
                    with write_whole(Path(folder) / path.name) as partial:
                        path.replace(partial)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise InputError(
                f"{folder}: predictions cannot be written ({cause.strerror or cause})."
            ) from error
        finally:
            self._output_dir = folder
        return results

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> dict:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results if coco_eval is not None else dict.fromkeys(results, 0.0)


def start_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set up logs in OUTPUT_DIR, and the seed, as detectron2's `default_setup`.

    Call this in each process of a run. Nothing of an earlier run is touched: the log grows. Raises
    InputError where the folder cannot be written to.
    """
    rank = comm.get_rank()
    log_into(Path(cfg.OUTPUT_DIR) / "log.txt", ("fvcore", "detectron2", "svit_det"), rank=rank)
    logger = logging.getLogger("svit_det")
    logger.info("Process %d of %d. %s", rank, comm.get_world_size(), collect_env_info())
    logger.info("Arguments: %s", args)
    logger.info("Config:\n%s", cfg.dump())
    seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def begin_results(cfg: CfgNode) -> None:
    """Write config.yaml, and remove the results of an earlier run.

    Call this in each process of a training, once the run has its weights: until then the run may be
    refused, and the earlier run's files stay. Raises InputError where the folder cannot be written
    to.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        with write_whole(folder / CONFIG) as partial:
            partial.write_text(cfg.dump())
    if comm.get_local_rank() == 0:  # machines may have folders of their own
        remove(folder / RESULTS)
