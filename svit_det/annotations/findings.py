"""The problems of a COCO json, counted by kind, with the names and places of the entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from svit_det.errors import printable

NAMED = 3
"""Number of entries of each kind that a sentence names."""
KINDS = 4
"""Number of kinds that a sentence names; the written list of entries left out has all kinds."""


@dataclass
class Findings:
    """The unusable entries and the odd but usable entries of one json.

    A kind of problem is a phrase that continues "3 annotations", as in "without a box". An entry is
    identified by its list, "images" or "annotations", and its place in the list, from 0.
    """

    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    """By list and place: the problem of each unusable entry, one problem for each."""
    odd: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By list and problem: the names of odd but usable entries."""
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    """The name of each unusable entry, such as "id 7"."""

    def refuse(self, where: str, place: int, entry: object, problem: str) -> None:
        """Count the entry at `place` of the list `where` as unusable."""
        if self.bad.setdefault(where, {}).setdefault(place, problem) == problem:
            self.names[where, place] = name_of(entry, place)

    def note(self, where: str, place: int, entry: object, problem: str) -> None:
        """Count the entry as usable but odd."""
        self.odd.setdefault(where, {}).setdefault(problem, []).append(name_of(entry, place))

    def refused(self, where: str) -> Mapping[int, str]:
        """The problems of the list's unusable entries, by place."""
        return self.bad.get(where, {})

    def in_words(self, sizes: Mapping[str, int]) -> str:
        """In words, as in "2 of 90 images cannot be used: 2 images without 'height' (id 4, 5)".

        sizes: the number of entries of each list.
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
        """A phrase for each kind of oddity, as in "3 annotations with ... (id 4, 5, 6)"."""
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
    """A name to find the entry in the file by: its id, or its place where the id is no help."""
    own = entry.get("id") if isinstance(entry, dict) else None
    if isinstance(own, (int, str)) and len(str(own)) <= 40:
        return f"id {printable(own)}"
    return f"entry {place + 1} of the list"
