"""docs/config_keys.md: every config key of this project, from its declaration.

svit-det config-keys           write the table
svit-det config-keys --check   say whether the table is fresh; status 1 if it is not
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

from svit_det.classification.keys import GROUPS
from svit_det.cli.execution import problem_of
from svit_det.config.declared import Declared, as_plain, declared
from svit_det.config.keys import POLICY_NODE, VIT_NODE
from svit_det.detection.config import declared_nodes
from svit_det.detection.ranges import leaves, ranges
from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.settings import Setting, worded

TABLE = Path(__file__).resolve().parents[2] / "docs" / "config_keys.md"
HEAD = """# Config keys

This page lists every key that this project adds to detectron2's own keys, then the values that
detectron2's keys may hold, and at the end the keys of classification, which has the trunk's and the
policies' keys too. `python tools/config_keys.py` writes this page from the declarations in
`svit_det/config/keys.py`, `svit_det/detection/keys.py`, `svit_det/classification/keys.py`, in the
`Config` of each policy and in `svit_det/detection/ranges.py`: change the declarations, not this
page. Blocks count from 0; a share is a part of an image's patch tokens. A value outside its range
is refused when the config is read.
"""
CLASSIFICATION = """# Classification

These are the other keys of `svit-det classify`, which knows none of detectron2's keys.
"""
FOREIGN = """## detectron2's own keys

The table says which values detectron2's keys may hold here. [The documentation of
detectron2](https://detectron2.readthedocs.io/modules/config.html) says what the keys mean. The
table leaves out switches, and texts that may be any name.

| key | default | values |
|---|---|---|
"""
KINDS = {int: "whole number", float: "number", str: "text", bool: "True or False"}


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
        if os.path.lexists(args.file) and not _is_such_a_page(args.file):
            raise InputError(
                f"--file {args.file}: is another file, and is not replaced; name another."
            )
        with write_whole(args.file) as path:
            path.write_text(text, encoding="utf-8")
    elif not args.file.is_file() or args.file.read_bytes() != text.encode():
        raise InputError(f"{args.file} is not fresh: run python tools/config_keys.py.")
    return {"file": str(args.file), "fresh": True}


def _is_such_a_page(path: Path) -> bool:
    title = HEAD.partition("\n")[0].encode()
    return path.is_file() and path.read_bytes().startswith(title)


def main(argv: Sequence[str]) -> str | None:
    """Write or check the table; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def key_table() -> str:
    """The whole page."""
    sections = [HEAD]
    shared = (VIT_NODE, POLICY_NODE)
    classification = {name: group for name, group in GROUPS.items() if name not in shared}
    for name, node in declared_nodes().items():
        lines = [f"## {name}", "", node.doc, "", *_rows(node.keys)]
        sections.append("\n".join(lines) + "\n")
    sections.append(FOREIGN + "\n".join(_foreign_rows()) + "\n")
    sections.append(CLASSIFICATION)
    for name, group in classification.items():
        lines = [f"## {name}", "", getdoc(group) or "", "", *_rows(declared(group))]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _foreign_rows() -> Iterator[str]:
    defaults = dict(leaves(get_cfg()))
    for key, about in ranges().items():
        yield f"| `{key}` | `{_shown(defaults[key])}` | {_values(about)} |"


def _rows(keys: Mapping[str, Declared]) -> Iterator[str]:
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    for key, each in keys.items():
        shown, about = _shown(each.default), each.about
        cells = [f"`{key}`", f"`{shown}`", _values(about), about.doc.replace("|", "\\|")]
        yield f"| {' | '.join(cells)} |"


def _shown(default: object) -> str:
    """The default as written in a yaml or on the command line."""
    plain = as_plain(default)
    return f'"{plain}"' if isinstance(plain, str) else str(plain)


def _values(about: Setting) -> str:
    """The values that the key takes, in a few words."""
    words = ", ".join(f"`{worded(choice)}`" for choice in about.choices) or KINDS[about.kind]
    if about.group:
        words = f"lists of {_counted(about.group, words)}"
    elif about.many:
        words = _counted(about.longest if about.shortest == about.longest else 0, words)
    if about.many:
        words = f"list of {words}"
    if about.interval:
        words = f"{words} in {about.interval}"
    if about.many and about.shortest == 1:
        words = f"{words}, not empty"
    return f"{words} or None" if about.optional else words


def _counted(number: int, words: str) -> str:
    """`words` in the plural, behind `number` where it is above 0."""
    return f"{number} {words}s" if number > 0 else f"{words}s"
