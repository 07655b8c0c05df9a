"""Checks of the place for results, so that a bad place is refused before the work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from svit_det.errors import InputError
from svit_det.files import is_there, try_writing
from svit_det.shipped import find_config, find_weights

WRITTEN = ("output", "export", "file", "cache")
"""Arguments, as the code calls them, that name places to write to."""
WORDS = ("dist_url", "title", "label")
"""Arguments that name no files: where processes meet, and words for people."""
NOT_READ = (*WRITTEN, *WORDS, "argv")
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
    _check_name(path, option)
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; name a file in it.")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{option} {path}: is there already; give --overwrite.")
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path}: is a device or a pipe; name a file.")
    _check_folder(path.parent, path, option)


def refuse_input(
    output: str | Path,
    inputs: Iterable[str | Path],
    *,
    also: Iterable[Path] = (),
    option: str = "--output",
) -> None:
    """Refuse to write to a file that the command reads. Raises InputError.

    `also`: other files that are written beside `output`.
    """
    read = places_of(inputs)
    for path in (output, *also):
        if not places_of([path]).isdisjoint(read):
            which = "is" if path == output else f"{Path(path).name}, which is written too, is"
            raise InputError(
                f"{option} {output}: {which} one of the files that are read, and no run replaces "
                "it; name another file."
            )


def refuse_folder_of(output: str | Path, pictures: Iterable[Path]) -> None:
    """Refuse to write charts into a folder of which pictures are read. Raises InputError."""
    if not places_of([output]).isdisjoint(places_of({path.parent for path in pictures})):
        raise InputError(
            f"--output {output}: is a folder of the pictures that are read, and no run replaces "
            "them; name another folder."
        )


def files_read(args: argparse.Namespace) -> list[str]:
    """The files that the command line names, as PATH or KEY=PATH; names of what ships become paths.

    A command reads them all: its weights, configs, annotations and pictures. The pictures in a
    folder are for the command to add.
    """
    found = []
    for name, given in vars(args).items():
        if name in NOT_READ:
            continue
        find = {"weights": find_weights, "config_file": find_config}.get(name, str)
        for word in map(str, given if isinstance(given, list) else [given]):
            for path in dict.fromkeys((word, word.rpartition("=")[2])):
                with suppress(InputError):  # the code that reads the file says what is wrong
                    found.append(find(path))
    return [path for path in found if os.path.isfile(path)]


def places_of(paths: Iterable[str | Path]) -> frozenset[Place]:
    """The places on the disk of the files that are there: links lead to the same place."""
    places = set()
    for path in paths:
        with suppress(OSError, ValueError):
            found = os.stat(path)
            places.add((found.st_dev, found.st_ino))
    return frozenset(places)


def _check_name(path: Path, option: str) -> None:
    """Refuse a name that no file can have, such as one that is too long or leads in a circle."""
    try:
        is_there(path)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror}).") from error


def _check_folder(folder: Path, output: Path, option: str = "--output") -> None:
    try:
        try_writing(folder)
    except OSError as error:
        raise InputError(
            f"{option} {output}: cannot be written, {error.filename} is no folder that may be "
            f"written to "
            f"({error.strerror})."
        ) from error
