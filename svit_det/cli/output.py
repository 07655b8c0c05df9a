"""Checks of the place for results, so that a bad place is refused before the work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from svit_det.errors import InputError


def check_output(output: str | Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written to, and files in it that would be replaced.

    The check makes nothing. Raises InputError.
    """
    output = Path(output)
    if not overwrite:
        there = next((name for name in names if (output / name).exists()), None)
        if there is not None:
            raise InputError(f"--output {output}: {there} is there already; give --overwrite.")
    _check_folder(output, output)


def check_output_file(output: str | Path, *, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse a file that cannot be written, would be replaced, or ends with none of `suffixes`."""
    path = Path(output)
    if path.suffix not in suffixes:
        raise InputError(f"--output {path}: name a {' or a '.join(suffixes)} file.")
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; name a file in it.")
    if path.exists() and not overwrite:
        raise InputError(f"--output {path}: is there already; give --overwrite.")
    _check_folder(path.parent, path)


def _check_folder(folder: Path, output: Path) -> None:
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        # Write a file, because rights are not enough: a disk may be full or mounted for reading.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot be written, {nearest} is no folder that may be written to "
            f"({error.strerror})."
        ) from error
