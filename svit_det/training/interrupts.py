"""Ctrl-C during a run: it ends the run, even where Python would drop the interrupt."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

PAUSE = 0.1
"""Seconds after which a dropped Ctrl-C is sent again."""


class Interrupt:
    """A handler of Ctrl-C that raises KeyboardInterrupt, as Python's own does, and remembers it.

    Python drops an exception that is raised while an object is removed or a process is forked, and
    prints a traceback. This happens for example at either end of an evaluation's loader of images.
    `dropped` is Python's hook for dropped exceptions: it prints nothing for an interrupt, and sends
    the interrupt again a moment later. If the interrupt has not arrived by the end of a step,
    `stop_if_asked` raises it there.
    """

    def __init__(self) -> None:
        self.asked = False
        self._again: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python between two instructions of the running code."""
        self.asked = True
        raise KeyboardInterrupt

    def dropped(self, what: UnraisableHookArgs) -> None:
        """Python's `sys.unraisablehook`; other exceptions than interrupts are printed as usual."""
        if not issubclass(what.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        self.forget_dropped()
        main = threading.main_thread().ident
        assert main is not None  # the main thread runs
        # The signal goes to the main thread, so that a waiting call there is interrupted too.
        self._again = threading.Timer(PAUSE, signal.pthread_kill, (main, signal.SIGINT))
        self._again.daemon = True
        self._again.start()

    def forget_dropped(self) -> None:
        """Do not send a dropped interrupt again, so that the end of a run is not interrupted."""
        if self._again is not None:
            self._again.cancel()
            self._again = None


def let_go(stop: BaseException) -> None:
    """Remove what the frames of an interrupted run hold, in silence.

    An object that was interrupted while it was made, such as a loader of images, complains when
    it is removed.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None
    try:
        error: BaseException | None = stop
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        gc.collect()
    finally:
        sys.unraisablehook = hook


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt if an earlier Ctrl-C was dropped."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Interrupt) and handler.asked:
        handler.forget_dropped()
        raise KeyboardInterrupt


def ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal: the main process ends this one.

    For the processes of a loader of images (`worker_init_fn`).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Inside the with-block Ctrl-C is remembered, unless another handler is set."""
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
