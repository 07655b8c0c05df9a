"""The log of a run: on the terminal at once, and in log.txt as soon as the run begins."""

from __future__ import annotations

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path

from svit_det.classification.processes import Processes
from svit_det.errors import InputError

FORMAT = "%(asctime)s %(message)s"
MOST_WAITING = 100_000
"""Lines that may wait for their file; a run that does not begin writes none of them."""


class RunLog:
    """The first process logs everything; the other processes log warnings, to the terminal."""

    def __init__(self, where: Processes) -> None:
        self._is_first = where.is_first
        self._waiting = MemoryHandler(MOST_WAITING, flushLevel=sys.maxsize, flushOnClose=False)
        if not where.is_first:
            logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
            return
        handlers = [logging.StreamHandler(sys.stderr), self._waiting]
        logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=handlers, force=True)

    def keep_in(self, folder: Path) -> None:
        """Append what was logged so far, and from now on, to FOLDER/log.txt. Raises InputError."""
        if not self._is_first:
            return
        path = folder / "log.txt"
        try:
            file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
        file.setFormatter(logging.Formatter(FORMAT))
        self._waiting.setTarget(file)
        self._waiting.flush()
        logging.getLogger().removeHandler(self._waiting)
        logging.getLogger().addHandler(file)
