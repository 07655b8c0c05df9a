"""Runs one command: the options of all commands, the result, and the sentence of a refusal."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType
from typing import Any

from svit_det.cli.output import WORDS, WRITTEN
from svit_det.errors import InputError, is_url, printable, refuse_url, says_no_memory
from svit_det.files import of_the_disk, of_the_name
from svit_det.interrupts import Terminated, remembering_interrupts
from svit_det.results import json_text
from svit_det.startup import INTERRUPTED, TERMINATED
from svit_det.streams import failure_of

JSON = ("--json", "--jso", "--js", "--j")
"""The option, and what argparse takes for it."""


def execute(module: str, argv: Sequence[str], *, program: str) -> int:
    """Run the command of this module (see commands.py); returns the exit status.

    0: done; 1: refused, with a sentence on stderr that begins with `program`; 130 and 143: stopped
    by Ctrl-C and by SIGTERM, with a line on stderr. A wrong command line ends in argparse's own
    way, with status 2. With --json stdout gets one JSON document and nothing else: the result, or
    {"error": the sentence}.
    """
    with _stdout_for(any(word in JSON for word in argv)) as write_result:
        try:
            with remembering_interrupts():
                result = _run(module, argv, program)
        except (InputError, OSError, MemoryError, RuntimeError) as problem:
            sentence = sentence_about(problem)
            if sentence is None:
                raise
            print(f"{program}: {sentence}", file=sys.stderr)
            write_result({"error": sentence})
            return 1
        except KeyboardInterrupt as stop:
            signal_name, status = "Ctrl-C", INTERRUPTED
            if isinstance(stop, Terminated):
                signal_name, status = "SIGTERM", TERMINATED
            then = f"; {stop}" if str(stop) else ""
            print(f"{program}: stopped by {signal_name}{then}.", file=sys.stderr)
            return status
        write_result({} if result is None else result)
    lost = failure_of(sys.stdout)
    if lost is not None:
        said = "the run is done, but standard output cannot be written"
        print(f"{program}: {said} ({lost.strerror}).", file=sys.stderr)
    return 0 if lost is None else 1


def sentence_about(problem: Exception) -> str | None:
    """The sentence of a refusal, or about a want of memory or disk; None: another problem."""
    if isinstance(problem, InputError):
        return str(problem)
    if isinstance(problem, OSError):
        # The place of every result is checked, but not of every file that a library makes.
        return of_the_disk(problem) or of_the_name(problem)
    if says_no_memory(problem):
        lines = str(problem).strip().splitlines() or ["the system gives no more"]
        return (
            "there is not enough memory for what was asked for; choose smaller sizes, numbers or "
            f"pictures ({printable(lines[0])[:160].rstrip('.')})."
        )
    return None


def _run(module: str, argv: Sequence[str], program: str) -> Any:
    # The packages are imported first, because the parser may need the policies that they register.
    import_packages(_packages_in(argv))
    command = import_command(module)
    parser = command_parser(command, program)
    args = parser.parse_args(argv)
    import_packages(args.packages)
    refuse_addresses(parser, args)
    args.argv = list(argv)
    return command.run(args)


def problem_of(command: ModuleType, argv: Sequence[str]) -> str | None:
    """Run a command in this process; returns the sentence of its refusal, or None."""
    try:
        parser = command_parser(command, command.__name__)
        args = parser.parse_args(argv)
        refuse_addresses(parser, args)
        args.argv = list(argv)
        command.run(args)
    except InputError as problem:
        return str(problem)
    return None


def import_command(module: str) -> ModuleType:
    """The module of a command. Raises InputError where a package that it needs is missing."""
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
    """The parser of a command: its own options, and the options of all commands."""
    parser: argparse.ArgumentParser = command.build_parser()
    parser.prog = program
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add --json and --import."""
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


def refuse_addresses(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse every address among the arguments, because nothing is fetched. Raises InputError."""
    for action in parser._actions:
        given = getattr(args, action.dest, None)
        option = action.option_strings[-1] if action.option_strings else ""
        if action.dest in WORDS:
            continue
        words = given if isinstance(given, list) else [given]
        for word in words:
            if action.dest in WRITTEN and is_url(word):
                raise InputError(f"{option} {word}: is a URL; name a place on this machine.")
            refuse_url(word, name=option)


def _packages_in(argv: Sequence[str]) -> list[str]:
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scanner.add_argument("--import", dest="packages", action="append", default=[])
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return list(scanner.parse_known_args(argv)[0].packages)
    except SystemExit:  # a name is missing; the command's own parser says so and prints its usage
        return []


def import_packages(names: Sequence[str]) -> None:
    """Import packages of the environment or the current folder. Raises InputError."""
    here = os.getcwd()
    if names and here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # at the end, so that a file here replaces no package
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
                raise InputError(
                    f"--import {name}: no such package, neither installed nor in {here}."
                ) from error
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise InputError(
                f"--import {name}: importing it fails ({type(error).__name__}: {reason})."
            ) from error


@contextmanager
def _stdout_for(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yields the function that writes the result to stdout.

    Where the result is wanted, all other output goes to stderr. This includes the output of C
    libraries and child processes, because the file descriptor itself is redirected.
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
