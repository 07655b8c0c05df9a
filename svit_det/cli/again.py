"""A command of this project in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE_LIES_IN = Path(__file__).resolve().parents[2]
# The folder of this package comes first: the current folder may hold another checkout.
CODE = (
    "import sys; sys.path[:0] = [{folder!r}]; from svit_det.cli.program import main; "
    "sys.exit(main(sys.argv[1:]))"
)


def command_again(
    name: str, *, packages: Sequence[str] = (), python: Sequence[str] = ()
) -> list[str]:
    """The words that start the command `name` of this package; its arguments may be added.

    `packages`: packages that the process imports (--import). `python`: options of the interpreter.
    """
    code = CODE.format(folder=str(PACKAGE_LIES_IN))
    imports = [word for package in packages for word in ("--import", package)]
    return [sys.executable, *python, "-c", code, name, *imports]
