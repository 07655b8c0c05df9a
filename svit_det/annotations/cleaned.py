"""Writes a COCO json without its unusable entries, and a list of the entries left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svit_det.annotations.check import Examined
from svit_det.errors import InputError
from svit_det.files import remove, write_whole
from svit_det.results import write_json

AT_ONCE = 10_000
"""Number of entries that are turned into text at a time."""
LIST = "_left_out"
"""The end of a list's name."""


def cleaned_file(output: str, name: str) -> Path:
    """The path of the cleaned json of the set `name`, for a run that writes to `output`."""
    return Path(output) / "annotations" / f"{_as_file_name(name)}.json"


def list_file(output: str, name: str) -> Path:
    """The path of the list of entries that the set lost."""
    return Path(output) / "annotations" / f"{_as_file_name(name)}{LIST}.json"


def was_cleaned(output: str, name: str) -> bool:
    """Whether a run that wrote to `output` has made the cleaned json of the set `name`.

    A file of that name without the list beside it is another file, such as the set's own json.
    """
    places = (cleaned_file(output, name), list_file(output, name))
    return all(map(os.path.isfile, places))  # a name that no file can have is none


def remove_cleaned(output: str, name: str) -> None:
    """Remove the files of an earlier run, which had to clean the set. Raises InputError."""
    if was_cleaned(output, name):
        remove(cleaned_file(output, name))
        remove(list_file(output, name))


def _as_file_name(name: str) -> str:
    """The set's name where it can be that of a file, and else a like name with a hash of it.

    Without the hash, two sets could have one file: `a/b` and `a_b`, or the list of `a` and the set
    `a_left_out`.
    """
    like = "".join(each if each.isalnum() or each in "-_." else "_" for each in name)
    if like == name and not name.endswith(LIST):
        return name
    return f"{like}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def write_cleaned(examined: Examined, output: str, name: str) -> Path:
    """Write the set `name` without its unusable entries, and a list of these; return the new json.

    Both files lie in the folder `output`/annotations. The list names each entry with its place in
    the original, counted from 0, and the reason. Raises InputError where a file cannot be written,
    and for another file in the place of the new json.
    """
    to = cleaned_file(output, name)
    if os.path.exists(to) and not was_cleaned(output, name):
        raise InputError(
            f"OUTPUT_DIR {output}: {to} would be replaced, which no run has written; name another "
            "OUTPUT_DIR."
        )
    lost = {where: examined.findings.refused(where) for where in ("images", "annotations")}
    listed: dict[str, Any] = {"source": str(Path(examined.path).absolute())}
    for where, problems in lost.items():
        listed[where] = [
            {"id": _plain_id(examined.content[where][place]), "place": place, "reason": reason}
            for place, reason in sorted(problems.items())
        ]
    write_json(list_file(output, name), listed)
    kept = {
        key: examined.usable(key) if key in lost else value
        for key, value in examined.content.items()
    }
    with write_whole(to) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(_in_parts(kept))
    return to


def _in_parts(content: dict[str, Any]) -> Iterator[str]:
    """The json text of `content` in pieces; long lists are cut into several pieces."""
    mark = "{"
    for key, value in content.items():
        yield f"{mark}{json.dumps(key)}: "
        mark = ",\n"
        if not isinstance(value, list):
            yield json.dumps(value)
            continue
        yield "["
        for start in range(0, len(value), AT_ONCE):
            text = json.dumps(value[start : start + AT_ONCE])[1:-1]
            yield f",\n{text}" if start else text
        yield "]"
    yield "}\n"


def _plain_id(entry: Any) -> Any:
    own = entry.get("id") if isinstance(entry, dict) else None
    return own if isinstance(own, (int, str)) else None
