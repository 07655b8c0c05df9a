"""Numbers on the command line: each option says which numbers it takes, as each config key does.

    add("--frames", action=Whole, interval=COUNT, help="stop after so many frames")

argparse's own `type` would end a wrong number with the usage and status 2; here it ends as every
other refusal of a command does, in one sentence that names the option.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, ClassVar

from svit_det.errors import InputError
from svit_det.settings import within

COUNT, TURNS, LONG = "[1, 1e6]", "[0, 1e6]", "[1, 1e9]"
"""Things that are counted; turns that may be left out; steps, frames and pictures."""
PIXELS, TOKENS, THREADS = "[1, 100000]", "[1, 10000]", "[1, 1024]"
SCORE, SHARE = "[0, 1]", "(0, 1]"
SEED = "[0, 1e9]"
LONGEST = 60
"""Most characters of a word that a refusal repeats."""


class Number(argparse.Action):
    """One number, or several with `nargs`, in an interval such as "[1, 100]".

    Raises InputError for a word that is no number and for a number outside of the interval. A
    default is taken as it is.
    """

    kind: ClassVar[type] = float
    wanted: ClassVar[str] = "a number"

    def __init__(self, *args: Any, interval: str, **others: Any) -> None:
        super().__init__(*args, **others)
        self.interval = interval

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Put the number, or the list of numbers, into the namespace."""
        if isinstance(values, list):
            setattr(namespace, self.dest, [self._number(word) for word in values])
        else:
            setattr(namespace, self.dest, self._number(str(values)))

    def _number(self, word: str) -> Any:
        said = f"{self.option_strings[-1]} {word[:LONGEST]}{'...' * (len(word) > LONGEST)}"
        try:
            number = self.kind(word)
        except ValueError as error:
            raise InputError(f"{said} is not {self.wanted}.") from error
        if not within(number, self.interval):
            raise InputError(f"{said} must lie in {self.interval}.")
        return number


class Whole(Number):
    """Whole numbers."""

    kind = int
    wanted = "a whole number"


class Real(Number):
    """Numbers with a point."""
