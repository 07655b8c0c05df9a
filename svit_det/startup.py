"""What a program of ours does before it imports torch and detectron2."""

from __future__ import annotations

import logging
import os
import warnings

FOREIGN_WARNINGS = (
    r"pkg_resources is deprecated",
    r"Deprecated call to `pkg_resources",
    r"`torch\.jit\..*` is deprecated",
    r"`torch\.cuda\.amp\..*` is deprecated",
    r"torch\.meshgrid",
    r"The given NumPy array is not writable",
    r"The 'warn' method is deprecated",
)
"""Beginnings of warnings that detectron2 and its friends raise and a user can do nothing about."""
FOREIGN_LOGGERS = (
    "torch.fx._symbolic_trace",
    "torch.multiprocessing.spawn",
    "torch.utils.cpp_extension",
)
"""Their remarks on a missing GPU, on tracing, and on processes stopped after one has failed."""


def prepare_process() -> None:
    """Let waiting threads sleep, and keep other packages' deprecations off the screen.

    Two threads that wait for each other by spinning run several times slower on a busy machine;
    OpenMP reads the policy once, when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for message in FOREIGN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
