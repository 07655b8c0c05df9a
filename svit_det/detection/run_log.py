"""The log of a run: detectron2's lines on stdout, and in a file that a full disk may cut short."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.utils.logger import setup_logger

from svit_det.files import naming

LINE, TIME = "[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"
"""As in detectron2's own log.txt."""


def log_into(
    path: str | Path, names: tuple[str, ...], *, rank: int = 0, on_stdout: bool = True
) -> None:
    """Append the lines of these loggers to the file; of the first process also to stdout.

    detectron2's `setup_logger` would also write the file, but its way of closing the file at the
    end of the program prints a traceback where the disk is full. Raises InputError where the file
    cannot be opened.
    """
    path = Path(f"{path}.rank{rank}" if rank else path)
    with naming(path):
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(LINE, datefmt=TIME))
    for name in names:
        logger = setup_logger(distributed_rank=rank, name=name, configure_stdout=on_stdout)
        for each in logger.handlers[:]:
            if getattr(each, "baseFilename", None) == handler.baseFilename:
                logger.removeHandler(each)  # of an earlier run of this process
        logger.addHandler(handler)
