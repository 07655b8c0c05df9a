"""The rule engine: renames a state dict by a table of names; an unknown name is an error.

A table maps patterns to patterns. `{}` stands for one part of a dotted name; the parts are carried
over in order. A last `{*}` stands for any rest. None drops a weight on purpose.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from torch import Tensor

from svit_det.errors import InputError

Table = Mapping[str, str | None]


def rename(
    weights: Mapping[str, Tensor],
    table: Table,
    *,
    source: str,
    hint: str = "Is this the kind of file that --from says?",
) -> dict[str, Tensor]:
    """The weights under their new names. `source` names the file in messages.

    hint: the last sentence of the message about an unknown name.

    Raises InputError for a name that no pattern matches, with the nearest patterns, and for two
    weights that would get the same name.
    """
    rules = [(_compile(pattern), target) for pattern, target in table.items()]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, value in weights.items():
        matches = ((rule.fullmatch(name), target) for rule, target in rules)
        found = next(((match, target) for match, target in matches if match), None)
        if found is None:
            unknown.append(name)
            continue
        match, target = found
        if target is None:
            continue
        new = _fill(target, match.groups())
        if new in renamed:
            raise InputError(f"{source}: two weights would be called {new}, the second is {name}.")
        renamed[new] = value
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], list(table), n=2, cutoff=0.0)
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(
            f"{source}: {unknown[0]}{more} in no row of the table; the nearest rows are "
            f"{' and '.join(nearest)}. {hint}"
        )
    return renamed


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\*?\})", pattern)
    special = {"{}": r"([^.]+)", "{*}": r"(.*)"}
    return re.compile("".join(special.get(part, re.escape(part)) for part in parts))


def _fill(target: str, groups: tuple[str, ...]) -> str:
    values = iter(groups)
    return re.sub(r"\{\*?\}", lambda _: next(values), target)
