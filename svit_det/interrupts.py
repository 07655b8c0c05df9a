"""Ctrl-C and SIGTERM during a run: both end it in good order, even where Python would drop them."""

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
"""Seconds after which a dropped signal is sent again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, with which other programs ask a program to end.

    What handles Ctrl-C, such as the removal of unfinished files, handles SIGTERM alike.
    """


class Interrupt:
    """A handler of both signals that raises KeyboardInterrupt or Terminated, and remembers it.

    Python drops an exception that is raised while an object is removed or a process is forked, and
    prints a traceback. This happens for example at either end of an evaluation's loader of images.
    `dropped` is Python's hook for dropped exceptions: it prints nothing for an interrupt, and sends
    the signal again a moment later. If the interrupt has not arrived by the end of a step,
    `stop_if_asked` raises it there.
    """

    def __init__(self) -> None:
        self.asked: type[KeyboardInterrupt] | None = None
        self._again: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python between two instructions of the running code."""
        if number == signal.SIGTERM:
            # A second request must not cut the orderly end that the first one has begun.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.asked = Terminated
        else:
            self.asked = KeyboardInterrupt
        raise self.asked

    def dropped(self, what: UnraisableHookArgs) -> None:
        """Python's `sys.unraisablehook`; other exceptions than interrupts are printed as usual."""
        if not issubclass(what.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        self.forget_dropped()
        number = signal.SIGINT
        if issubclass(what.exc_type, Terminated):
            number = signal.SIGTERM
            signal.signal(number, self)
        main = threading.main_thread().ident
        assert main is not None  # the main thread runs
        # The signal goes to the main thread, so that a waiting call there is interrupted too.
        self._again = threading.Timer(PAUSE, signal.pthread_kill, (main, number))
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
    """Raise the interrupt that an earlier signal asked for and Python dropped."""
    # The hook knows the handler, which a first SIGTERM has taken off its signal.
    handler = getattr(sys.unraisablehook, "__self__", None)
    if isinstance(handler, Interrupt) and handler.asked is not None:
        handler.forget_dropped()
        raise handler.asked


def ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal: the main process ends this one.

    For the processes of a loader of images (`worker_init_fn`).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Inside the with-block both signals are remembered, each unless it has another handler.

    A command in the background of a shell script ignores Ctrl-C, and SIGTERM still ends it in good
    order. Outside of the main thread, where Python sets no handlers, nothing changes.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    taken = {each: before for each, before in usual.items() if signal.getsignal(each) is before}
    if not taken or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, hook = Interrupt(), sys.unraisablehook
    for each in taken:
        signal.signal(each, handler)
    sys.unraisablehook = handler.dropped
    try:
        yield
    finally:
        handler.forget_dropped()
        sys.unraisablehook = hook
        for each, before in taken.items():
            signal.signal(each, before)
