"""Running one command: the options that all have, its result, and its one sentence of refusal."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

from svit_det.errors import InputError
from svit_det.results import json_text
from svit_det.startup import INTERRUPTED


def execute(module: str, argv: Sequence[str], *, program: str) -> int:
    """Run the command of this module (see commands.py); returns the exit status.

    0: done; 1: refused, with a sentence on stderr that begins with `program`; 130: stopped by
    Ctrl-C, with a line there. A wrong command line ends in argparse's own way, with status 2. Under
    --json one JSON document is all that stdout gets: the result, or {"error": the sentence}.
    """
    wanted = "--json" in argv
    with _stdout_for(wanted) as write_result:
        try:
            result = _run(module, argv, program)
        except InputError as problem:
            print(f"{program}: {problem}", file=sys.stderr)
            write_result({"error": str(problem)})
            return 1
        except KeyboardInterrupt as stop:
            then = f"; {stop}" if str(stop) else ""
            print(f"{program}: stopped by Ctrl-C{then}.", file=sys.stderr)
            return INTERRUPTED
        write_result({} if result is None else result)
    return 0


def _run(module: str, argv: Sequence[str], program: str) -> Any:
    # First of all, so that parsers know the policies that such a package registers.
    import_packages(_packages_in(argv))
    command = import_command(module)
    parser = command_parser(command, program)
    args = parser.parse_args(argv)
    import_packages(args.packages)
    args.argv = list(argv)
    return command.run(args)


def problem_of(command: ModuleType, argv: Sequence[str]) -> str | None:
    """Run a command in this process; the sentence of its refusal, or None where all went well."""
    args = command_parser(command, command.__name__).parse_args(argv)
    args.argv = list(argv)
    try:
        command.run(args)
    except InputError as problem:
        return str(problem)
    return None


def import_command(module: str) -> ModuleType:
    """The module of a command. Raises InputError where detectron2, which it needs, is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or ""
        cause = error.__cause__
        while cause is not None and isinstance(cause, ImportError):
            missing, cause = cause.name or missing, cause.__cause__
        if missing.partition(".")[0] == "svit_det":
            raise
        raise InputError(
            f"{missing or error} cannot be imported, and this command needs it; svit-det doctor "
            "says what is missing and how to get it."
        ) from error


def command_parser(command: ModuleType, program: str) -> argparse.ArgumentParser:
    """The command's own options and the ones that all commands have."""
    parser: argparse.ArgumentParser = command.build_parser()
    parser.prog = program
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """--json and --import."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON on stdout, and everything else on stderr",
    )
    parser.add_argument(
        "--import",
        dest="packages",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import this package first, such as one that registers a policy; may be repeated",
    )


def _packages_in(argv: Sequence[str]) -> list[str]:
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scanner.add_argument("--import", dest="packages", action="append", default=[])
    try:
        return list(scanner.parse_known_args(argv)[0].packages)
    except SystemExit:  # a name is missing: the command's own parser says so, with its usage
        return []


def import_packages(names: Sequence[str]) -> None:
    """Import packages of the environment or the current folder. Raises InputError."""
    here = os.getcwd()
    if names and here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that a file here replaces no package
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
                raise InputError(
                    f"--import {name}: no such package, neither installed nor in {here}."
                ) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"--import {name}: importing it fails ({type(error).__name__}: {reason})."
            ) from error


@contextmanager
def _stdout_for(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yields what writes the result. Where it is wanted, all other output goes to stderr.

    Also that of libraries in C and of child processes, which know descriptors alone.
    """
    if not wanted:
        yield lambda result: None
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    lines: list[str] = []
    try:
        with redirect_stdout(sys.stderr):
            yield lambda result: lines.append(json_text(result))
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
