"""What a program of ours does before it imports torch and detectron2."""

from __future__ import annotations

import atexit
import ctypes
import io
import logging
import os
import sys
import warnings
from types import TracebackType

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


ALLOCATOR = "SVIT_DET_ALLOCATOR"
"""Environment variable of `keep_freed_memory`: `keep`, the default, or `system`."""
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def prepare_process() -> None:
    """Let waiting threads sleep, keep freed memory, keep others' deprecations off the screen.

    From then on Ctrl-C ends the program with one line and exit status 130, whatever it is doing.

    Two threads that wait for each other by spinning run several times slower on a busy machine;
    OpenMP reads the policy once, when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    print_any_name()
    sys.excepthook = _say_interrupted
    for message in FOREIGN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def print_any_name() -> None:
    """Spell out what a terminal has no sign for, instead of ending where a name holds it.

    Names of files are bytes: one from another system may be no text in the encoding of this one.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say_interrupted(
    kind: type[BaseException], problem: BaseException, trace: TracebackType | None
) -> None:
    """Python's hook for what nobody caught, except that Ctrl-C is no news to whoever pressed it."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, problem, trace)
        return
    print(f"{os.path.basename(sys.argv[0])}: stopped by Ctrl-C.", file=sys.stderr, flush=True)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(INTERRUPTED)  # Python itself would end as killed by a signal, which is not 130 to all


def keep_freed_memory() -> bool:
    """Let the C library keep large buffers that were freed, instead of asking for them anew.

    glibc maps every buffer above 32 MB by itself and unmaps it when it is freed: the maps of one
    detector pass are then page-faulted by every operation, which takes longer than the operation.
    Kept, the process holds on to its peak. Returns whether that was set: not with the environment
    variable SVIT_DET_ALLOCATOR=system, nor where glibc's own variables or another C library decide.
    """
    wanted = os.environ.get(ALLOCATOR, "keep")
    if wanted not in ("keep", "system"):
        raise SystemExit(f"{ALLOCATOR}={wanted}: choose keep or system.")
    decided = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
    if wanted == "system" or decided or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # mallopt answers 1 for success; -1 turns trimming off.
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1))
