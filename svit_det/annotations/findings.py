"""What is wrong in a COCO json: counted by kind, with the first offenders and all their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NAMED = 3
"""Offenders of each kind that a sentence names."""
KINDS = 4
"""Kinds that a sentence names; the list of what is left out has them all."""


@dataclass
class Findings:
    """Entries that cannot be used and what is odd but harmless, for one json.

    A kind of problem is a phrase that goes on after "3 annotations", as in "without a box". An
    entry is known by its list, "images" or "annotations", and its place there, from 0.
    """

    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    """By list: the problem of every entry that cannot be used, by its place. One for each."""
    odd: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By list and problem: the names of entries that can be used all the same."""
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    """How to call an entry that cannot be used, such as "id 7"."""

    def refuse(self, where: str, place: int, entry: object, problem: str) -> None:
        """The entry at `place` of the list `where` cannot be used."""
        if self.bad.setdefault(where, {}).setdefault(place, problem) == problem:
            self.names[where, place] = name_of(entry, place)

    def note(self, where: str, place: int, entry: object, problem: str) -> None:
        """The entry can be used, and somebody may want to know this of it."""
        self.odd.setdefault(where, {}).setdefault(problem, []).append(name_of(entry, place))

    def refused(self, where: str) -> Mapping[int, str]:
        """The problems of the list's entries that cannot be used, by place."""
        return self.bad.get(where, {})

    def in_words(self, sizes: Mapping[str, int]) -> str:
        """What cannot be used, as in "2 of 90 images: 2 images without 'id' (id 4, 5)".

        sizes: how many entries each list has.
        """
        parts, kinds = [], []
        for where in ("images", "annotations"):
            if self.refused(where):
                parts.append(f"{len(self.refused(where)):,} of {sizes[where]:,} {where}")
            by_kind: dict[str, list[str]] = {}
            for place, problem in self.refused(where).items():
                by_kind.setdefault(problem, []).append(self.names[where, place])
            kinds += [_kind(where, problem, names) for problem, names in by_kind.items()]
        if len(kinds) > KINDS:
            kinds = [*kinds[:KINDS], f"{len(kinds) - KINDS} more kinds of problems"]
        return f"{' and '.join(parts)} cannot be used: {'; '.join(kinds)}"

    def oddities(self) -> list[str]:
        """A phrase for each kind of what is odd, as in "3 annotations with ... (id 4, 5, 6)"."""
        return [
            _kind(where, problem, names)
            for where, kinds in self.odd.items()
            for problem, names in kinds.items()
        ]


def _kind(where: str, problem: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    word = where if len(names) != 1 else where.removesuffix("s")
    return f"{len(names):,} {word} {problem} ({', '.join(names[:NAMED])}{more})"


def name_of(entry: object, place: int) -> str:
    """How to find the entry in the file: its id, or where it has none of use its place."""
    own = entry.get("id") if isinstance(entry, dict) else None
    if isinstance(own, (int, str)) and len(str(own)) <= 40:
        return f"id {own}"
    return f"entry {place + 1} of the list"
