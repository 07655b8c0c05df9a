"""docs/config_keys.md: every config key of this project, from its declaration.

python tools/config_keys.py           write the table
python tools/config_keys.py --check   say whether it is fresh; status 1 if it is not
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from inspect import getdoc
from pathlib import Path

from svit_det.classification.keys import GROUPS
from svit_det.config.declared import Declared, as_plain, declared
from svit_det.config.keys import POLICY_NODE, VIT_NODE
from svit_det.detection.config import declared_nodes
from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.settings import Setting

TABLE = Path(__file__).resolve().parents[2] / "docs" / "config_keys.md"
HEAD = """# Config keys

Every key that this project adds to detectron2's own, and at the end those of classification, which
has the trunk's and the policies' keys too. Written by `python tools/config_keys.py` from the
declarations in `svit_det/config/keys.py`, `svit_det/detection/keys.py`,
`svit_det/classification/keys.py` and in the `Config` of each policy: change those, not this file.
Blocks count from 0; a share is a part of an image's patch tokens.
"""
CLASSIFICATION = """# Classification

The other keys of `tools/train_classifier.py`, which knows nothing of detectron2's.
"""
KINDS = {int: "whole number", float: "number", str: "text", bool: "True or False", object: "list"}


def main(argv: Sequence[str]) -> str | None:
    """Write or check the table; returns what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    parser.add_argument("--file", type=Path, default=TABLE, help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        text = key_table()
        if not args.check:
            with write_whole(args.file) as path:
                path.write_text(text, encoding="utf-8")
        elif not args.file.is_file() or args.file.read_bytes() != text.encode():
            return f"{args.file} is not fresh: run python tools/config_keys.py."
    except InputError as problem:
        return str(problem)
    return None


def key_table() -> str:
    """The whole page."""
    sections = [HEAD]
    shared = (VIT_NODE, POLICY_NODE)
    classification = {name: group for name, group in GROUPS.items() if name not in shared}
    for name, node in declared_nodes().items():
        lines = [f"## {name}", "", node.doc, "", *_rows(node.keys)]
        sections.append("\n".join(lines) + "\n")
    sections.append(CLASSIFICATION)
    for name, group in classification.items():
        lines = [f"## {name}", "", getdoc(group) or "", "", *_rows(declared(group))]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _rows(keys: Mapping[str, Declared]) -> Iterator[str]:
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    for key, each in keys.items():
        shown, about = _shown(each.default), each.about
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
