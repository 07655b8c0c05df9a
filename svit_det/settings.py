"""Settings as frozen dataclasses: each field states its meaning and the values that it takes.

One declaration serves the constructor's check, the yaml key with its comment, and the table of keys
in the docs.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from svit_det.errors import InputError

LONGEST_WORD = 100_000
"""Characters of a text that can be meant; writing a far longer one into a yaml takes minutes."""


@dataclass(frozen=True)
class Setting:
    """The meaning of a field and the values that it takes."""

    doc: str
    """The meaning, in as many words as a comment holds."""
    kind: type
    """bool, int, float or str; with `many` the kind of each entry."""
    many: bool = False
    """Whether the value is a tuple of entries; in yaml it is a list."""
    optional: bool = False
    """Whether None is allowed."""
    interval: str = ""
    """The numbers that are allowed, as in "(0, 1]"; empty for every number."""
    choices: tuple[str, ...] = ()
    """The words that are allowed; empty for every word."""
    needs: tuple[str, Any] | None = None
    """Another field and its value without which this field does nothing; `...`: any but None. With
    other values of the other field, this field must have its default."""
    shortest: int = 0
    """With `many`, the least number of entries."""
    longest: int = 1000
    """With `many`, the largest number of entries."""
    group: int = 0
    """With `many`, each entry is itself a list of this many values; -1: of one or more values; 0:
    an entry is no list."""
    shared: bool = False
    """Whether the key lies beside NAME, shared by all policies that have the field, and not in the
    policy's own node."""


def setting(
    default: Any,
    doc: str,
    *,
    kind: type | None = None,
    many: bool = False,
    optional: bool = False,
    interval: str = "",
    choices: tuple[str, ...] = (),
    needs: tuple[str, Any] | None = None,
    shortest: int = 0,
    longest: int = 1000,
    group: int = 0,
    shared: bool = False,
) -> Any:
    """A dataclass field that describes itself; `kind` is the default's type unless given."""
    about = Setting(
        doc=doc,
        kind=kind or type(default),
        many=many,
        optional=optional,
        interval=interval,
        choices=choices,
        needs=needs,
        shortest=shortest,
        longest=longest,
        group=group,
        shared=shared,
    )
    return dataclasses.field(default=default, metadata={"setting": about})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A group of settings, checked when made. Raises InputError that names the field."""

    def __post_init__(self) -> None:
        for name, about in self.described().items():
            object.__setattr__(self, name, checked(name, getattr(self, name), about))
        for name, about in self.described().items():
            self._check_needs(name, about)

    def _check_needs(self, name: str, about: Setting) -> None:
        if about.needs is None or getattr(self, name) == type(self).defaults()[name]:
            return
        other, wanted = about.needs
        value = getattr(self, other)
        if value != wanted if wanted is not ... else value is None:
            needed = "set" if wanted is ... else repr(wanted)
            raise InputError(
                f"does nothing unless {other.upper()} is {needed}; leave it out or set that too.",
                setting=name,
            )

    @classmethod
    def described(cls) -> Mapping[str, Setting]:
        """Every field and its `Setting`, in the order of declaration."""
        return {
            each.name: each.metadata["setting"]
            for each in dataclasses.fields(cls)
            if "setting" in each.metadata
        }

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every field and its default."""
        return {name: getattr(cls, name) for name in cls.described()}


def checked(name: str, value: Any, about: Setting) -> Any:
    """`value` in the setting's kind, lists as tuples. Raises InputError about setting `name`."""
    if value is None and about.optional:
        return None
    if not about.many:
        return _checked_entry(name, value, about)
    entries = _checked_list(name, value, about.shortest, about.longest)
    if not about.group:
        return tuple(_checked_entry(name, entry, about) for entry in entries)
    least, most = (1, about.longest) if about.group < 0 else (about.group, about.group)
    return tuple(
        tuple(_checked_entry(name, part, about) for part in _checked_list(name, e, least, most))
        for e in entries
    )


def _checked_list(name: str, value: Any, shortest: int, longest: int) -> Sequence[Any]:
    # A LazyConfig's own kind of list passes, too.
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise InputError(f"{shown(value)} is not a list of values.", setting=name)
    if shortest <= len(value) <= longest:
        return value
    wanted = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    raise InputError(f"{shown(value)} must have {wanted} entries, not {len(value)}.", setting=name)


def _checked_entry(name: str, value: Any, about: Setting) -> Any:
    if about.kind is float and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):
            value = float(value)
    is_of_kind = type(value) is about.kind
    if not is_of_kind:
        kinds = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}
        raise InputError(f"{shown(value)} is not {kinds[about.kind]}.", setting=name)
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        raise InputError(
            f"a text of {len(value):,} characters; at most {LONGEST_WORD:,} can be meant.",
            setting=name,
        )
    if about.many and value == "" and not about.choices:
        raise InputError("a list of words holds an empty one; remove it.", setting=name)
    if about.choices and value not in about.choices:
        raise InputError(
            f"no {shown(value)}; choose one of {', '.join(map(worded, about.choices))}.",
            setting=name,
        )
    if about.interval and not within(value, about.interval):
        raise InputError(f"{shown(value)} must lie in {about.interval}.", setting=name)
    return value


def shown(value: Any) -> str:
    """`value` on one short line, however long, deep or large it is."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 60
    brief.maxlist = brief.maxtuple = 8
    try:
        return brief.repr(value)
    except ValueError:  # Python refuses to write a whole number of more than 4,300 digits
        return "a number of thousands of digits"


def worded(choice: str) -> str:
    """A choice as text; the empty word is written as two quotes."""
    return choice or '""'


def within(value: float, interval: str) -> bool:
    """Whether `value` lies in an interval such as "(0, 1]"; nan lies in none."""
    opening, low, high, closing = _interval(interval)
    above = value >= low if opening == "[" else value > low
    below = value <= high if closing == "]" else value < high
    return above and below


def _interval(text: str) -> tuple[str, float, float, str]:
    match = re.fullmatch(r"([\[(])(.+), (.+)([\])])", text)
    if match is None:
        raise ValueError(f"{text!r} is no interval.")
    opening, low, high, closing = match.groups()
    return opening, float(low), float(high), closing
