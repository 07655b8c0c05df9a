"""Results as JSON that any program reads, and those of several seeds as words."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svit_det.errors import InputError
from svit_det.files import write_all_whole, write_whole


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as a whole file or not at all; nan and infinite numbers become null.

    Raises InputError where the file cannot be written.
    """
    with write_whole(path) as partial:
        partial.write_text(json_text(content))


def read_ended(path: Path, *, remove: Path) -> dict[str, Any]:
    """The JSON object in a file that a training of a comparison has written.

    `remove`: what a user has to remove so that the next comparison writes the file anew. Raises
    InputError where the file is gone or damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        reason = None if isinstance(found, dict) else "not a JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not a readable JSON file"
    if reason:
        raise InputError(
            f"{path}: cannot be read ({reason}), and the training has ended; remove {remove}, and "
            "the next comparison writes the file anew."
        )
    return dict(found)


def json_text(content: Any) -> str:
    """`content` as JSON text, with a line break at the end."""
    return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """`value` with None for each nan or infinite number, and with words for keys."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def replace_results(folder: Path, results: Mapping[str, Any], *, config: str) -> None:
    """Write results.json and config.yaml of an evaluation together, in place of an earlier run's.

    Until then the earlier files stay, so that an evaluation that fails costs nothing. `config` is
    the text of the yaml. Raises InputError where the folder cannot be written to.
    """
    with write_all_whole([folder / "config.yaml", folder / "results.json"]) as (yaml, found):
        yaml.write_text(config)
        found.write_text(json_text(results))


def spread(found: Mapping[str, Any], key: str, digits: int = 1) -> str:
    """The mean over the seeds' runs, with the smallest and largest value in brackets.

    "-" where a run has no such value.
    """
    values = [run[key] for run in found["runs"].values()]
    if any(value is None for value in values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = min(values), max(values)
    return f"{statistics.fmean(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
