"""The folder of a training: an earlier training in it is neither mixed with nor lost in silence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from svit_det.errors import InputError


def refuse_held(folder: str | Path, held: Sequence[str]) -> None:
    """Refuse to begin in a folder that holds these files of a training. Raises InputError."""
    if held:
        raise InputError(
            f"OUTPUT_DIR {folder}: holds a training already ({held[-1]}); go on with --resume, "
            "begin anew with --overwrite, or name another folder."
        )


def refuse_no_files(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which a folder or a device has the name of a training's file.

    Raises InputError.
    """
    for name in names:
        if os.path.exists(folder / name) and not os.path.isfile(folder / name):
            raise InputError(
                f"OUTPUT_DIR {folder}: {name} in it is no file; remove it, or name another folder."
            )


def refuse_parent(weights: str, final: Path) -> None:
    """Refuse a training that begins with the file that it writes at its end. Raises InputError."""
    if weights and os.path.realpath(weights) == os.path.realpath(final):
        raise InputError(
            f"MODEL.WEIGHTS {weights}: is the file that this training would replace at its end; "
            "name another OUTPUT_DIR."
        )


def remove_all_but(weights: str, paths: Iterable[Path]) -> None:
    """Remove the files, in their order, less the weights with which the new training begins."""
    kept = os.path.realpath(weights)
    for path in paths:
        if os.path.realpath(path) != kept:
            path.unlink(missing_ok=True)
