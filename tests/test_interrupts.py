"""Ctrl-C ends a run wherever it comes, and is no news to whoever pressed it."""

import os
import signal
import time
from contextlib import suppress

import pytest

from svit_det.interrupts import let_go, remembering_interrupts, stop_if_asked


class Interrupting:
    """An object that is interrupted while it is removed."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_was_dropped_is_raised_at_the_end_of_a_step(number):
    stop_if_asked()  # nobody has asked
    with remembering_interrupts():
        handler = signal.getsignal(number)
        stop_if_asked()
        with suppress(KeyboardInterrupt):
            handler(number, None)
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
    stop_if_asked()


def test_an_interrupt_that_was_dropped_comes_again(capfd):
    """Silently, and wherever the run is by then: an evaluation has no steps."""
    with pytest.raises(KeyboardInterrupt), remembering_interrupts():
        Interrupting()
        time.sleep(60)
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_in_a_fork_comes_again(capfd):
    """What Python does around a fork drops what is raised there, in the parent."""
    where = []

    def interrupted():
        if where:
            where.clear()
            signal.raise_signal(signal.SIGINT)

    os.register_at_fork(after_in_parent=interrupted)
    with pytest.raises(KeyboardInterrupt), remembering_interrupts():
        where.append("here")
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(60)
    assert capfd.readouterr() == ("", "")


def test_a_run_that_ends_is_not_interrupted_afterwards():
    with remembering_interrupts():
        Interrupting()
    time.sleep(0.3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_exceptions_are_printed_as_ever(capfd):
    class Raising:
        def __del__(self):
            raise ValueError("news")

    with remembering_interrupts():
        Raising()
    assert "ValueError: news" in capfd.readouterr().err


def test_half_made_objects_are_removed_in_silence(capfd):
    removed = []

    class Half:
        def __init__(self):
            raise KeyboardInterrupt

        def __del__(self):
            removed.append(self)
            raise AttributeError("half")

    try:
        Half()
    except KeyboardInterrupt as stop:
        let_go(stop)
        assert removed
    removed.clear()
    assert capfd.readouterr().err == ""
