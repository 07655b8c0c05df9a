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


def refuse_odd(folder: str | Path, names: Iterable[str]) -> None:
    """Refuse a folder, pipe or device where a run has a file of this name. Raises InputError.

    Opening a pipe would wait for ever.
    """
    for name in names:
        path = Path(folder) / name
        if os.path.lexists(path) and not os.path.isfile(path):
            raise InputError(
                f"OUTPUT_DIR {folder}: {name} is no file, where the run has one; remove it, or "
                "name another folder."
            )


def remove_all_but(weights: str, paths: Iterable[Path]) -> None:
    """Remove the files, in their order, less the weights with which the new training begins."""
    kept = os.path.realpath(weights)
    for path in paths:
        if os.path.realpath(path) != kept:
            path.unlink(missing_ok=True)
