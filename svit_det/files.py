"""Writes a file, or several that belong together, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from svit_det.errors import InputError, printable

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of a disk that is full or mounted for reading."""
TRIED = 4096
"""Bytes that are written to try a folder: a full disk may have room for a name alone."""


def try_writing(folder: Path) -> None:
    """Try whether files can be made in the folder, or in the nearest folder above that is there.

    A nameless file is written, because rights are not enough: a disk may be full or mounted for
    reading. Raises OSError, with the folder that was tried as its `filename`; so does a name that
    no folder can have, and a link that leads nowhere.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if _may_hold(place))
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(nearest)
        raise


def real_path(path: str | Path) -> Path:
    """The absolute path without links; links in a circle stay, for a later check to refuse."""
    return Path(os.path.realpath(path))


def is_there(place: Path) -> bool:
    """Whether something is at this path; raises OSError for a name that nothing can have."""
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(place)) from error
    return True


def _may_hold(place: Path) -> bool:
    """As `is_there`; also raises OSError for a link that leads nowhere, which is no folder."""
    found = is_there(place)
    if not found and place.is_symlink():
        raise OSError(errno.ENOENT, "a link that leads nowhere", str(place))
    return found


def make_folder(folder: str | Path) -> Path:
    """Make the folder, and the missing ones above it; a link leads to its target.

    Returns the folder as it was named. Raises InputError where it cannot be made.
    """
    with naming(folder):
        Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def remove(path: Path) -> None:
    """Remove the file, if it is there. Raises InputError where it stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be removed ({error.strerror}).") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, which is removed at the end of the with-block.

    Raises InputError where there is no place for it, or no room in it.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="svit_det_")
    except OSError as error:
        raise InputError(
            f"there is no folder for temporary files ({error.strerror}); name one in the "
            "environment variable TMPDIR."
        ) from error
    with made as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if of_the_disk(error) is None:
                raise
            raise InputError(
                f"{Path(folder).parent}: temporary files cannot be written ({error.strerror}); "
                "name another folder in the environment variable TMPDIR."
            ) from error


def open_log(path: str | Path, *, emptied: bool = True) -> TextIO:
    """A file for lines of text, in place of an older one or at its end. Raises InputError."""
    with naming(path):
        return open(path, "w" if emptied else "a", encoding="utf-8")


@contextmanager
def log_of_one(path: Path) -> Iterator[TextIO]:
    """An empty log that one training writes; raises InputError while another one still does.

    The training inherits the lock with the file, and holds the lock even after the comparison that
    started the training was killed.
    """
    with open_log(path, emptied=False) as file:  # nothing is emptied before the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise InputError(
                    f"{path}: a training of another comparison still writes this file; wait until "
                    "it has ended, or end it."
                ) from error
            # Some network disks know no locks; there nothing guards the folder.
        with naming(path):
            file.truncate(0)
        yield file


def of_the_disk(error: OSError) -> str | None:
    """The sentence for an error of a full disk or of one mounted for reading; None for others."""
    if error.errno not in DISK:
        return None
    return f"{error.filename or 'a file'}: cannot be written ({error.strerror})."


def of_the_name(error: OSError) -> str | None:
    """The sentence for a name that no file can have, or links in a circle; None for others."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
        return None
    name = printable(error.filename or "a file")
    return f"{name[:60]}: no file can be found under this name ({error.strerror})."


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yields a new file beside `path`, which replaces `path` when the `with` block ends well.

    Until then `path` stays as it was, even if the process is killed or the power fails. Missing
    folders are made. Raises InputError where the file cannot be written, and for every OSError in
    the block. After any exception nothing of the new file is left.
    """
    with write_all_whole([path]) as (partial,):
        yield partial


@contextmanager
def write_all_whole(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """As `write_whole`, for files that belong together: yields a new file beside each path.

    No path is replaced before all new files are whole and on the disk. Only a kill or a failure
    between two renames can leave new files beside old ones.
    """
    files = [_NewFile.beside(path) for path in paths]
    try:
        modes = []
        for file in files:
            with naming(file.path):
                modes.append(file.begin())
        with naming(", ".join(map(str, paths))):
            yield [file.partial for file in files]
        for file, mode in zip(files, modes, strict=True):
            with naming(file.path):
                file.finish(mode)
        _rename_all(files)
    finally:
        for file in files:
            with suppress(OSError):
                file.partial.unlink()  # after the rename this file no longer exists
    for folder in dict.fromkeys(file.target.parent for file in files):
        with suppress(OSError):  # some file systems cannot flush folders
            _flush(folder)


@dataclass(frozen=True)
class _NewFile:
    """A file that is written beside its target."""

    path: str | Path
    """The target as the caller names it."""
    target: Path
    partial: Path

    @classmethod
    def beside(cls, path: str | Path) -> _NewFile:
        target = Path(os.path.realpath(path))  # a link stays: the file it points to is replaced
        # The new file lies in the same folder, because a rename is atomic only within one file
        # system. Its name begins with the target's name, so that a file left by a killed process
        # can be told. The beginning is cut, because the length of a file's name is limited.
        name = f".{target.name[:40]}.{secrets.token_hex(4)}.partial"
        return cls(path, target, target.with_name(name))

    def begin(self) -> int:
        """Make the empty file; returns the rights that the finished file gets."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        _check_place(self.target)
        self.partial.touch(exist_ok=False)
        return (self.target if self.target.exists() else self.partial).stat().st_mode

    def finish(self, mode: int) -> None:
        """Put the written file on the disk, under its own name still."""
        with suppress(OSError):  # some file systems know no rights
            self.partial.chmod(mode & 0o777)  # some libraries write files for the owner only
        _flush(self.partial)


def _rename_all(files: Sequence[_NewFile]) -> None:
    """Put all finished files in their places. A failure removes those where there was no file."""
    added = []
    try:
        for file in files:
            is_new = not file.target.exists()
            with naming(file.path):
                os.replace(file.partial, file.target)
            if is_new:
                added.append(file.target)
    except InputError:
        for target in added:
            target.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside the with-block, an OSError becomes an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}).") from error


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
