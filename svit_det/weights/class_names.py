"""The names of the classes in a file's description, which comes from outside."""

from __future__ import annotations

from typing import Any

from svit_det.errors import InputError, is_text


def class_names_in(known: Any, count: int, *, source: str) -> list[str]:
    """The names that a description holds. Raises InputError unless each class has one.

    `count`: the number of classes of the model; `source`: the file of the description.
    """
    if not isinstance(known, (list, tuple)) or not all(isinstance(each, str) for each in known):
        raise InputError(f"{source}: holds no list of names under 'classes' in its description.")
    if not all(map(is_text, known)):
        raise InputError(f"{source}: a name under 'classes' holds half a character.")
    if len(known) != count:
        raise InputError(
            f"{source}: names {len(known)} classes in its description, where its config has "
            f"{count}; the file is damaged or was put together from two."
        )
    return list(known)
