"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svit_det.errors import InputError


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yields a file beside `path`, which takes its place once the `with` block has ended well.

    Until then `path` stays as it was, even if the process is killed or the power fails. Missing
    folders are made. Raises InputError where the file cannot be written, which includes every
    OSError of the block; after any exception nothing of the new file is left.
    """
    target = Path(os.path.realpath(path))  # a link stays a link: its file is replaced
    # In the same folder, because a rename is atomic only within one file system. The beginning of
    # the name says whose it is, should a killed process leave it; it is cut to keep within limits.
    partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_place(target)
        partial.touch(exist_ok=False)
        mode = (target if target.exists() else partial).stat().st_mode
        yield partial
        with suppress(OSError):  # not every file system knows rights
            partial.chmod(mode & 0o777)  # some libraries' files are for their owner only
        _flush(partial)
        os.replace(partial, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            partial.unlink()  # there is none after the rename
    with suppress(OSError):  # not every file system flushes folders
        _flush(target.parent)


def _check_place(target: Path) -> None:
    """A rename would replace files that `open` refuses to write to."""
    if target.is_dir():
        raise OSError("a folder stands in its place")
    if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
        raise OSError("what stands in its place is not a file that may be written to")


def _flush(path: Path) -> None:
    """Have the system put the file, or the names in the folder, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
