"""The console command `svit-det`, and the entry of every script in tools/.

Importing this module prepares the process (`svit_det.startup`), which has to happen before torch is
imported; the processes that a training starts import this module again. Nothing heavy is imported
here.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from svit_det import __version__
from svit_det.cli.commands import COMMANDS, Command
from svit_det.errors import printable
from svit_det.startup import prepare_process

prepare_process()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `svit-det COMMAND ...`; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"svit-det {__version__}")
        return 0
    name = words[0]
    if name not in available():
        nearest = difflib.get_close_matches(name.lower(), available(), n=1, cutoff=0.0)[0]
        said = printable(name[:60])
        print(f"svit-det: no command '{said}'; the nearest is '{nearest}'.", file=sys.stderr)
        return 2
    return start(name, words[1:], program=f"svit-det {name}")


def run_tool(name: str) -> int:
    """Run the command as a script of tools/, with the words that the script was started with."""
    return start(name, sys.argv[1:], program=Path(sys.argv[0]).name)


def start(name: str, argv: Sequence[str], *, program: str) -> int:
    """Import the command and run it; returns the exit status."""
    from svit_det.cli.execution import execute

    return execute(f"svit_det.cli.{COMMANDS[name].module}", argv, program=program)


def available() -> dict[str, Command]:
    """The commands whose module is installed."""
    return {
        name: command
        for name, command in COMMANDS.items()
        if importlib.util.find_spec(f"svit_det.cli.{command.module}") is not None
    }


def overview() -> str:
    """The text that `svit-det --help` prints."""
    lines = [
        "usage: svit-det COMMAND [options] [KEY VALUE ...]",
        "",
        "Token-pruned vision transformers for detection and segmentation, on detectron2.",
    ]
    for in_a_checkout, title in ((False, "commands:"), (True, "in a checkout of the project:")):
        lines += ["", title]
        for name, command in available().items():
            if command.in_a_checkout is in_a_checkout:
                lines.append(f"  {name:23}{command.summary}")
    lines += [
        "",
        "svit-det COMMAND --help lists the options. Every command takes --json (the result on",
        "stdout, all else on stderr) and --import PACKAGE (a package with policies of yours).",
    ]
    return "\n".join(lines)
