"""The folder of a training: an earlier training in it is neither mixed with nor lost in silence."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from svit_det.errors import InputError, is_text
from svit_det.files import open_log, remove

LOCK = "training.lock"
"""The file in OUTPUT_DIR that is locked while a training goes on; it is empty, and stays."""


@contextmanager
def only_training_in(folder: str | Path) -> Iterator[None]:
    """The folder is this process's own inside the with-block.

    Raises InputError where a training of another process goes on in the folder. The lock ends with
    the process, however the process ends: it is not one of `flock`, which the processes that load
    images would inherit and hold for some seconds after a kill. A process holds it once: to open
    and close the file again in this process would end it.
    """
    with open_log(Path(folder) / LOCK, emptied=False) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"OUTPUT_DIR {folder}: another training is going on in this folder; wait until "
                    "it has ended, end it, or name another folder."
                ) from error
            # Some network disks know no locks; there nothing guards the folder.
        yield


def refuse_going_on(folder: str | Path) -> None:
    """Refuse a folder in which a training goes on. Nothing is made there. Raises InputError."""
    if os.path.isfile(Path(folder) / LOCK):
        with only_training_in(folder):
            pass


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
