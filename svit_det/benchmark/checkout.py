"""The commit of a checkout, as git describes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package: a checkout, unless the package was installed."""


def commit_of(folder: Path = ROOT) -> str | None:
    """Such as 0af0fd8, or 0af0fd8-dirty with changed files; None for a folder that is no checkout.

    A folder somewhere inside of another project's checkout is none.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None
