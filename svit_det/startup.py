"""Prepares the process of a program before it imports torch and detectron2."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import sys
import warnings
from types import TracebackType

from svit_det.interrupts import Terminated
from svit_det.streams import hold_streams

FOREIGN_WARNINGS = (
    r"pkg_resources is deprecated",
    r"Deprecated call to `pkg_resources",
    r"`torch\.jit\..*` is deprecated",
    r"`torch\.cuda\.amp\..*` is deprecated",
    r"torch\.meshgrid",
    r"The given NumPy array is not writable",
    r"The 'warn' method is deprecated",
)
"""Beginnings of warnings of detectron2 and its libraries that a user can do nothing about."""
FOREIGN_LOGGERS = (
    "torch.fx._symbolic_trace",
    "torch.multiprocessing.spawn",
    "torch.utils.cpp_extension",
)
"""Loggers that remark on a missing GPU, on tracing, and on processes stopped after a failure."""


ALLOCATOR = "SVIT_DET_ALLOCATOR"
"""Environment variable of `keep_freed_memory`: `keep`, the default, or `system`."""
PRIMITIVES = 256
"""Compiled operations that oneDNN keeps. A whole detector has about 65 for each size of picture."""
INTERRUPTED, TERMINATED = 130, 143
"""Exit status of a program that Ctrl-C ended, and of one that SIGTERM ended."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def prepare_process() -> None:
    """Let waiting threads sleep, keep freed memory, hide other libraries' deprecation warnings.

    From then on Ctrl-C ends the program at any time, with one line and exit status 130.

    Threads that wait for each other by spinning run several times slower on a busy machine. OpenMP
    reads the wait policy once, when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # By default oneDNN keeps 1,024 of about 45 KB each, for sizes that may never come again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVES))
    keep_freed_memory()
    hold_streams()
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, ends no run
    sys.excepthook = _say_interrupted
    for message in FOREIGN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _say_interrupted(
    kind: type[BaseException], problem: BaseException, trace: TracebackType | None
) -> None:
    """Python's hook for uncaught exceptions; both signals get a line instead of a traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, problem, trace)
        return
    terminated = issubclass(kind, Terminated)
    signal_name = "SIGTERM" if terminated else "Ctrl-C"
    program = os.path.basename(sys.argv[0])
    print(f"{program}: stopped by {signal_name}.", file=sys.stderr, flush=True)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    # Python itself would end by a signal, which not every caller reads as 130.
    os._exit(TERMINATED if terminated else INTERRUPTED)


def keep_freed_memory() -> bool:
    """Let the C library keep freed large buffers, instead of asking the system for new ones.

    glibc maps every buffer above 32 MB by itself and unmaps it when the buffer is freed. Every
    operation on a detector's maps then causes page faults, which take longer than the operation. A
    process that keeps its buffers holds as much memory as at its peak. Returns whether the C
    library was told to keep buffers. It is not told so with the environment variable
    SVIT_DET_ALLOCATOR=system, where glibc's own variables decide, or with another C library.
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
    # mallopt returns 1 for success; the value -1 turns trimming off.
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1))
