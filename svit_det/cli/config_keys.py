"""docs/config_keys.md: every config key of this project, from its declaration.

python tools/config_keys.py           write the table
python tools/config_keys.py --check   say whether it is fresh; status 1 if it is not
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svit_det.cli.execution import problem_of
from svit_det.detection.config import Declared, as_plain, declared_nodes
from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.settings import Setting

TABLE = Path(__file__).resolve().parents[2] / "docs" / "config_keys.md"
HEAD = """# Config keys

Every key that this project adds to detectron2's own. Written by `python tools/config_keys.py` from
the declarations in `svit_det/detection/keys.py` and in the `Config` of each policy: change those,
not this file. Blocks count from 0; a share is a part of an image's patch tokens.
"""
KINDS = {int: "whole number", float: "number", str: "text", bool: "True or False", object: "list"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    parser.add_argument("--file", type=Path, default=TABLE, help="default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write or check the table. Raises InputError where it is not fresh."""
    text = key_table()
    if not args.check:
        with write_whole(args.file) as path:
            path.write_text(text, encoding="utf-8")
    elif not args.file.is_file() or args.file.read_bytes() != text.encode():
        raise InputError(f"{args.file} is not fresh: run python tools/config_keys.py.")
    return {"file": str(args.file), "fresh": True}


def main(argv: Sequence[str]) -> str | None:
    """Write or check the table; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def key_table() -> str:
    """The whole page."""
    sections = [HEAD]
    for name, node in declared_nodes().items():
        lines = [f"## {name}", "", node.doc, "", *_rows(node.keys)]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _rows(keys: Mapping[str, Declared]) -> Iterator[str]:
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    for key, declared in keys.items():
        shown, about = _shown(declared.default), declared.about
        cells = [f"`{key}`", f"`{shown}`", _values(about), about.doc.replace("|", "\\|")]
        yield f"| {' | '.join(cells)} |"


def _shown(default: object) -> str:
    """As one would write it in a yaml or on the command line."""
    plain = as_plain(default)
    return f'"{plain}"' if isinstance(plain, str) else str(plain)


def _values(about: Setting) -> str:
    """What values there are, in a few words."""
    words = ", ".join(f"`{choice}`" for choice in about.choices) or KINDS[about.kind]
    if about.many:
        words = f"list of {words}s"
    if about.interval:
        words = f"{words} in {about.interval}"
    return f"{words} or None" if about.optional else words
