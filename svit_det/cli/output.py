"""Checks of the place for results, so that a bad place is refused before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from svit_det.errors import InputError
from svit_det.files import try_writing

Place = tuple[int, int]
"""The device and the number of a file's content on it."""


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a command's files. Files in it are replaced if asked for, inputs never."""

    path: Path
    overwrite: bool
    inputs: frozenset[Place] = frozenset()

    @classmethod
    def apart_from(
        cls, inputs: Iterable[str | Path], path: str | Path, *, overwrite: bool
    ) -> OutputFolder:
        """The folder `path` of a command that reads the files `inputs`."""
        return cls(Path(path), overwrite, places_of(inputs))

    def check(self, names: Iterable[str]) -> None:
        """Refuse files that must not be replaced: at the start, and before each is written.

        Raises InputError that names the first of them.
        """
        there = [name for name in names if os.path.exists(self.path / name)]
        for name in there:
            if not self.inputs.isdisjoint(places_of([self.path / name])):
                raise InputError(
                    f"--output {self.path}: {name} is one of the files that are read, and no run "
                    "replaces it; name another folder."
                )
        if there and not self.overwrite:
            raise InputError(
                f"--output {self.path}: {there[0]} is there already; give --overwrite."
            )


def check_output(output: str | Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written to, and files in it that would be replaced.

    The check makes nothing. Raises InputError.
    """
    folder = OutputFolder(Path(output), overwrite)
    folder.check(names)
    _check_folder(folder.path, folder.path)


def check_output_file(output: str | Path, *, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse a file that cannot be written, would be replaced, or ends with none of `suffixes`."""
    path = Path(output)
    if path.suffix not in suffixes:
        raise InputError(f"--output {path}: name a {' or a '.join(suffixes)} file.")
    if os.path.isdir(path):
        raise InputError(f"--output {path}: is a folder; name a file in it.")
    if os.path.exists(path) and not overwrite:
        raise InputError(f"--output {path}: is there already; give --overwrite.")
    _check_folder(path.parent, path)


def refuse_input(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write to a file that the command reads. Raises InputError."""
    if not places_of([output]).isdisjoint(places_of(inputs)):
        raise InputError(
            f"--output {output}: is one of the files that are read, and no run replaces it; name "
            "another file."
        )


def places_of(paths: Iterable[str | Path]) -> frozenset[Place]:
    """The places on the disk of the files that are there: links lead to the same place."""
    places = set()
    for path in paths:
        with suppress(OSError, ValueError):
            found = os.stat(path)
            places.add((found.st_dev, found.st_ino))
    return frozenset(places)


def _check_folder(folder: Path, output: Path) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot be written, {error.filename} is no folder that may be "
            f"written to "
            f"({error.strerror})."
        ) from error
