"""The folder of a training: an earlier training in it is neither mixed with nor lost in silence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from svit_det.errors import InputError, is_text
from svit_det.files import remove


def refuse_no_text(folder: str | Path) -> None:
    """Refuse an OUTPUT_DIR whose name is no text, as a name from another system may be.

    Tensorboard could not write its file there. Raises InputError.
    """
    if not is_text(str(folder)):
        raise InputError(f"OUTPUT_DIR {folder}: its name is no text in UTF-8; name another folder.")


def refuse_held(folder: str | Path, held: Sequence[str]) -> None:
    """Refuse to begin in a folder that holds these files of a training. Raises InputError."""
    if held:
        raise InputError(
            f"OUTPUT_DIR {folder}: holds a training already ({held[-1]}); go on with --resume, "
            "begin anew with --overwrite, or name another folder."
        )


def refuse_parent_in(
    folder: str | Path, weights: str, written: Iterable[str], *, key: str = "MODEL.WEIGHTS"
) -> None:
    """Refuse weights to begin from that the training would replace. Raises InputError.

    `written`: the names, or patterns of them, of the weights that a training writes to `folder`;
    `key`: the config key that names the weights.
    """
    if not weights or not os.path.exists(weights):
        return
    there = [os.path.realpath(path) for name in written for path in Path(folder).glob(name)]
    if os.path.realpath(weights) in there:
        raise InputError(
            f"{key} {weights}: the training would write over the file that it begins from; "
            "name another OUTPUT_DIR, or move the file."
        )


def refuse_no_files(folder: str | Path, names: Iterable[str]) -> None:
    """Refuse a folder, pipe, device or broken link where a run has a file of this name.

    Opening a pipe would wait for ever. Raises InputError.
    """
    for name in names:
        path = Path(folder) / name
        if os.path.lexists(path) and not os.path.isfile(path):
            raise InputError(
                f"OUTPUT_DIR {folder}: {name} is no file, where the run has one; remove it, or "
                "name another folder."
            )


def remove_all_but(weights: Iterable[str], paths: Iterable[Path]) -> None:
    """Remove the files, in their order, less the weights with which the new training begins.

    Raises InputError where a file cannot be removed.
    """
    kept = [os.path.realpath(each) for each in weights]
    for path in paths:
        if os.path.realpath(path) not in kept:
            remove(path)
