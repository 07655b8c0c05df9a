"""The folder of a training: refused before anything is written, and begun whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from svit_det.errors import InputError
from svit_det.files import write_whole

LAST, FINAL = "last.pth", "model_final.pth"
"""The checkpoint to resume from, and the trained weights, in OUTPUT_DIR."""


def check_folder(cfg: Any, *, begins: bool) -> None:
    """Refuse an OUTPUT_DIR that cannot be written to or, where a training begins, holds another.

    The folder stays as it is: nothing is made or written here. Raises InputError.
    """
    if not cfg.OUTPUT_DIR:
        raise InputError("OUTPUT_DIR is empty; name a folder for what the run writes.")
    folder = Path(cfg.OUTPUT_DIR)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"OUTPUT_DIR {folder}: cannot be written ({error}).") from error
    held = [name for name in (LAST, FINAL) if (folder / name).exists()]
    if held and begins:
        raise InputError(
            f"OUTPUT_DIR {folder}: holds a training already ({held[-1]}); go on with --resume, "
            "begin anew with --overwrite, or name another folder."
        )


def clear(cfg: Any) -> None:
    """Remove an earlier training from OUTPUT_DIR, less the weights that the new one began from."""
    for path in (Path(cfg.OUTPUT_DIR) / name for name in (LAST, FINAL)):
        if os.path.realpath(path) != os.path.realpath(cfg.MODEL.WEIGHTS):
            path.unlink(missing_ok=True)


def write_config(cfg: Any) -> None:
    """Write OUTPUT_DIR/config.yaml, whole; makes a missing folder. Raises InputError."""
    with write_whole(Path(cfg.OUTPUT_DIR) / "config.yaml") as partial:
        partial.write_text(cfg.dump())
