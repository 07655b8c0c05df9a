"""The one exception that a user is meant to read, and a refusal that many places share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

NO_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "Unable to allocate"),
    *("size calculation overflowed", "integer multiplication overflow"),
)
"""Words of torch and NumPy about more memory than there is, and about sizes that no memory has."""


LONGEST = 5000
"""Most characters of a sentence; a path has up to 4,096."""


class InputError(ValueError):
    """A value, file or option from outside cannot be used.

    The message is one sentence that names the file, argument or config key and says what to do. The
    tools print the message without a traceback and exit with status 1.

    `setting` is the Python name of the wrong argument; the message then begins with this name. Code
    that read the value from another place renames the setting: see `renamed_settings`.
    """

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        message = _shortened(printable(message))
        super().__init__(f"{setting}: {message}" if setting else message)
        self.message = message
        self.setting = setting

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[str, str | None]]:
        """Keep `setting` between processes: pickling an exception loses keyword-only arguments."""
        return _rebuild, (self.message, self.setting)


def printable(text: object) -> str:
    """The text on one line, in characters that every terminal shows.

    Names of files and classes come from outside. A line break, a terminal's control sequence, a
    mark that turns the direction of reading, and a byte that is no character are spelled out.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def is_url(given: object) -> bool:
    """Whether text or a path is an address; a path has lost the second slash of `https://`."""
    one_slash = isinstance(given, PurePath) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(given))
    return "://" in str(given) or bool(one_slash)


def is_text(text: str) -> bool:
    """Whether the text can be written: json and pickles may hold halves of characters."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def says_no_memory(error: BaseException) -> bool:
    """Whether the error is about memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def refuse_url(given: object, *, name: str = "") -> None:
    """Raise InputError for an address, detectron2's own included: nothing is fetched.

    `name`: the option or key that the address was given for, if there is one.
    """
    if is_url(given):
        what = f"{name} {given}" if name else str(given)
        raise InputError(f"{what}: a file is wanted, not a URL; download it first.")


def _shortened(text: str) -> str:
    """The text without its middle, where it is longer than a person can read: names in files of
    weights may be of any length, and thousands of pictures may be missing at once.
    """
    end = 500
    return text if len(text) <= LONGEST else f"{text[: LONGEST - end]} ... {text[-end:]}"


def _rebuild(message: str, setting: str | None) -> InputError:
    return InputError(message, setting=setting)


@contextmanager
def renamed_settings(name: Callable[[str], str]) -> Iterator[None]:
    """Inside the with-block, an InputError about an argument names `name(argument)` instead.

    The core rooms know arguments, not config keys. The code that reads a yaml turns the argument's
    name into the key: `num_heads` becomes `MODEL.VIT.NUM_HEADS`.
    """
    try:
        yield
    except InputError as error:
        if error.setting is None:
            raise
        raise InputError(f"{name(error.setting)}: {error.message}") from error
