"""Ctrl-C during a run: it ends the run, also where Python would drop it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

PAUSE = 0.1
"""Seconds after which a dropped Ctrl-C comes again."""


class Interrupt:
    """Ctrl-C's handler: it raises KeyboardInterrupt as Python's own does, and remembers it.

    Python drops what is raised while an object is removed or a process is forked, such as at
    either end of an evaluation's loader of images, and prints a traceback. `dropped` is Python's
    hook for that: it prints nothing and lets the interrupt come again a moment later, and
    `stop_if_asked` raises it at the end of a step if it has not come by then.
    """

    def __init__(self) -> None:
        self.asked = False
        self._again: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python, between two instructions of whatever runs."""
        self.asked = True
        raise KeyboardInterrupt

    def dropped(self, what: UnraisableHookArgs) -> None:
        """Python's `sys.unraisablehook`; what is no interrupt is printed as ever."""
        if not issubclass(what.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        self.forget_dropped()
        main = threading.main_thread().ident
        assert main is not None  # it runs
        # To that thread, so that what it waits for is interrupted too.
        self._again = threading.Timer(PAUSE, signal.pthread_kill, (main, signal.SIGINT))
        self._again.daemon = True
        self._again.start()

    def forget_dropped(self) -> None:
        """What was dropped does not come again, so that a run which ends is not interrupted."""
        if self._again is not None:
            self._again.cancel()
            self._again = None


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt where Ctrl-C has come before and was dropped."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Interrupt) and handler.asked:
        handler.forget_dropped()
        raise KeyboardInterrupt


@contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Inside the with-block Ctrl-C is remembered, unless somebody else handles it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    handler, hook = Interrupt(), sys.unraisablehook
    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = handler.dropped
    try:
        yield
    finally:
        handler.forget_dropped()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, signal.default_int_handler)
