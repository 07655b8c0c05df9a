"""The folder of a training: refused before anything is written, and begun whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svit_det.errors import InputError
from svit_det.files import try_writing, write_whole
from svit_det.training.run_folder import (
    LOCK,
    refuse_held,
    refuse_no_files,
    refuse_no_text,
    refuse_parent_in,
    remove_all_but,
)

LAST, FINAL = "last.pth", "model_final.pth"
"""The checkpoint to resume from, and the trained weights, in OUTPUT_DIR."""
CONFIG, RESULTS = "config.yaml", "results.json"
WRITTEN = (CONFIG, RESULTS, "log.txt", LOCK)
"""What a run writes besides."""


def check_folder(cfg: Any, *, begins: bool, overwrite: bool = False) -> None:
    """Refuse an OUTPUT_DIR that cannot be written to or, where a training begins, holds another.

    With `overwrite` it may hold another, but not the weights that the new training begins from. The
    folder stays as it is: nothing is made or written here. Raises InputError.
    """
    if not cfg.OUTPUT_DIR:
        raise InputError("OUTPUT_DIR is empty; name a folder for what the run writes.")
    refuse_no_text(cfg.OUTPUT_DIR)
    folder = Path(cfg.OUTPUT_DIR)
    try:
        try_writing(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"OUTPUT_DIR {folder}: cannot be written ({error}).") from error
    refuse_no_files(folder, (LAST, FINAL, *WRITTEN))
    if begins:
        refuse_parent_in(folder, cfg.MODEL.WEIGHTS, [LAST, FINAL])
        refuse_parent_in(folder, cfg.SOLVER.TEACHER, [LAST, FINAL], key="SOLVER.TEACHER")
    if begins and not overwrite:
        refuse_held(folder, [name for name in (LAST, FINAL) if (folder / name).exists()])


def clear(cfg: Any) -> None:
    """Remove an earlier training from OUTPUT_DIR, less the weights that the new one read."""
    read = [cfg.MODEL.WEIGHTS, cfg.SOLVER.TEACHER]
    remove_all_but(read, (Path(cfg.OUTPUT_DIR) / name for name in (LAST, FINAL)))


def write_config(cfg: Any) -> None:
    """Write OUTPUT_DIR/config.yaml, whole; makes a missing folder. Raises InputError."""
    with write_whole(Path(cfg.OUTPUT_DIR) / CONFIG) as partial:
        partial.write_text(cfg.dump())
