"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svit_det.errors import InputError


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yields a new file beside `path`, which replaces `path` when the `with` block ends well.

    Until then `path` stays as it was, even if the process is killed or the power fails. Missing
    folders are made. Raises InputError where the file cannot be written, and for every OSError in
    the block. After any exception nothing of the new file is left.
    """
    target = Path(os.path.realpath(path))  # a link stays: the file that it points to is replaced
    # The new file lies in the same folder, because a rename is atomic only within one file system.
    # Its name begins with the target's name, so that a file left by a killed process can be told.
    # The beginning is cut, because the length of a file's name is limited.
    partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_place(target)
        partial.touch(exist_ok=False)
        mode = (target if target.exists() else partial).stat().st_mode
        yield partial
        with suppress(OSError):  # some file systems know no rights
            partial.chmod(mode & 0o777)  # some libraries write files for the owner only
        _flush(partial)
        os.replace(partial, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            partial.unlink()  # after the rename this file no longer exists
    with suppress(OSError):  # some file systems cannot flush folders
        _flush(target.parent)


def _check_place(target: Path) -> None:
    """Refuse a target that `open` refuses to write to: a rename would replace it all the same."""
    if target.is_dir():
        raise OSError("a folder stands in its place")
    if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
        raise OSError("what stands in its place is not a file that may be written to")


def _flush(path: Path) -> None:
    """Have the system write the file, or the names in the folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
