"""Refusing an output that cannot be written before any work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from svit_det.errors import InputError


def check_output(output: Path, *, suffixes: Sequence[str], overwrite: bool) -> None:
    """Raises InputError for a wrong ending, a file that is there, and a closed folder."""
    if output.suffix.lower() not in suffixes:
        raise InputError(f"--output {output}: choose a name with the ending {suffixes[0]}.")
    if output.is_dir():
        raise InputError(f"--output {output}: a folder stands in its place.")
    if output.exists() and not overwrite:
        raise InputError(f"--output {output}: is there already; give --overwrite.")
    nearest = next(place for place in output.absolute().parents if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: {nearest} is no folder that may be written to.")
