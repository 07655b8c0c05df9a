"""Checks of the place for results, so that a bad place is refused before the work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from svit_det.errors import InputError
from svit_det.files import try_writing

Place = tuple[int, int]
"""The device and the number of a file's content on it."""
READ = ("weights", "config_file", "annotations", "dense", "pruned", "film")
"""The options and arguments that name files which a command reads."""


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
        no_files = [name for name in there if not os.path.isfile(self.path / name)]
        if no_files:
            raise InputError(
                f"--output {self.path}: {no_files[0]} is no file, and is not replaced; name "
                "another folder."
            )


def check_output(
    output: str | Path, names: Iterable[str], *, overwrite: bool, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse a folder that cannot be written to, and files in it that would be replaced.

    `inputs`: the files that the command reads, which are never replaced. The check makes nothing.
    Raises InputError.
    """
    if not str(output):
        raise InputError("--output is empty; name a folder, or . for the current one.")
    folder = OutputFolder.apart_from(inputs, output, overwrite=overwrite)
    folder.check(names)
    _check_folder(folder.path, folder.path)


def check_output_file(
    output: str | Path, *, suffixes: tuple[str, ...], overwrite: bool, option: str = "--output"
) -> None:
    """Refuse a file that cannot be written, would be replaced, or ends with none of `suffixes`.

    `option`: the option that names the file. Raises InputError.
    """
    path = Path(output)
    if path.suffix not in suffixes:
        raise InputError(f"{option} {path}: name a {' or a '.join(suffixes)} file.")
    if os.path.isdir(path):
        raise InputError(f"{option} {path}: is a folder; name a file in it.")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{option} {path}: is there already; give --overwrite.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{option} {path}: is a device or a pipe; name a file.")
    _check_folder(path.parent, path, option)
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option} {path}: cannot be written ({reason}).") from error


def refuse_input(
    output: str | Path, inputs: Iterable[str | Path], *, option: str = "--output"
) -> None:
    """Refuse to write to a file that the command reads. Raises InputError."""
    if not places_of([output]).isdisjoint(places_of(inputs)):
        raise InputError(
            f"{option} {output}: is one of the files that are read, and no run replaces it; name "
            "another file."
        )


def files_read(args: argparse.Namespace) -> list[str]:
    """The files that the options of a command name for reading: weights, configs, annotations."""
    named = (getattr(args, name, None) for name in READ)
    return [str(each) for given in named if given for each in _as_list(given)]


def _as_list(given: object) -> list[object]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def places_of(paths: Iterable[str | Path]) -> frozenset[Place]:
    """The places on the disk of the files that are there: links lead to the same place."""
    places = set()
    for path in paths:
        with suppress(OSError, ValueError):
            found = os.stat(path)
            places.add((found.st_dev, found.st_ino))
    return frozenset(places)


def _check_folder(folder: Path, output: Path, option: str = "--output") -> None:
    try:
        try_writing(folder)
    except OSError as error:
        raise InputError(
            f"{option} {output}: cannot be written, {error.filename} is no folder that may be "
            f"written to "
            f"({error.strerror})."
        ) from error
