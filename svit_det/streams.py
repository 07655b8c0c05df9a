"""Standard streams that are always there, show any name, and end no run when they break.

The results of a command are its files. A reader of standard output that goes away (`| head -1`), a
full disk behind `> log.txt` and a stream that was closed from the start (`>&-`) do not stop the
work.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO, cast


class LastingStream(io.FileIO):
    """A standard stream that drops what it cannot write, from the first failure on."""

    failure: OSError | None = None
    """The first failure; that nobody reads any more is none."""
    _dropping = False

    def write(self, data: Any) -> int:
        """Write the bytes, or drop them; returns their number."""
        if not self._dropping:
            try:
                return super().write(data)
            except OSError as error:
                self._dropping = True
                if not isinstance(error, BrokenPipeError):
                    self.failure = error
        return memoryview(data).nbytes


def hold_streams() -> None:
    """Replace this process's standard streams by lasting ones.

    Streams that another program has put in their place, such as a notebook, stay. A character that
    the stream's encoding lacks is spelled out, because names of files are bytes, and a name from
    another system may be no text in this system's encoding.
    """
    for number in range(3):
        _open_if_closed(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # Python found the stream closed. Meanwhile the number may belong to another file.
            stream = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)
        elif isinstance(stream, io.TextIOWrapper):
            if stream is getattr(sys, f"__{name}__") and stream.fileno() == number:
                stream = _lasting(stream, number)
                setattr(sys, name, stream)
            stream.reconfigure(errors="backslashreplace")


def failure_of(stream: TextIO | None) -> OSError | None:
    """Why a part of what was printed to the stream is lost; None where nothing is lost."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, LastingStream):
        return None
    cast(TextIO, stream).flush()
    return raw.failure


def _open_if_closed(number: int) -> None:
    """Have the number name the null device, or the next file that is opened would get it.

    A library that prints to standard output would then write into that file.
    """
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _lasting(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    """A stream as the given one, which drops what it cannot write."""
    stream.flush()
    raw = LastingStream(number, "wb", closefd=False)
    return io.TextIOWrapper(
        # As Python does it: without a buffer (python -u), every write goes to the file at once.
        cast(io.BufferedWriter, raw) if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
