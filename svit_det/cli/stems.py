"""Stems for the files that a command writes for each picture: no two pictures share one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Stems:
    """The stem of each picture's files, by the picture's path. Later ones of a name get a number.

    The paths given at the start get their stems first, so that the stems of files are known before
    the first picture is read. The frames of a film get theirs as they come.
    """

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        self._of: dict[str, str] = {}
        self._taken: set[str] = set()
        for path in paths:
            self.of(path)

    def of(self, name: str | Path) -> str:
        """The stem for a path, or for a frame such as "film.mp4#000012"; the same at every call."""
        if str(name) not in self._of:
            self._of[str(name)] = self._unused(_plain(Path(name)))
        return self._of[str(name)]

    def _unused(self, stem: str) -> str:
        unique, number = stem, 2
        while unique in self._taken:
            unique, number = f"{stem}_{number}", number + 1
        self._taken.add(unique)
        return unique


def _plain(path: Path) -> str:
    # The suffix of a frame such as "film.mp4#000012" holds the number of the frame.
    return (path.name if "#" in path.suffix else path.stem).replace("#", "_")
