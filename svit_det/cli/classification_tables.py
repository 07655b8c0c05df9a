"""The layouts of the supplementary's tables 1 and 2, for any list of trained classifiers.

    svit-det classification-tables DEIT.pth SVIT.pth ... --data-root FOLDER --output OUT.json

Each FILE is a model_final.pth of svit-det classify; NAME=FILE gives the model a name. The first
model is the dense model that the others are compared with. Every model is evaluated on FOLDER/val
anew. GFLOPs are giga multiply-adds, counted from the record of each image's pass. For images/s all
models take turns on a few batches, after a warm-up.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from svit_det.benchmark.report import describe_machine
from svit_det.classification.tables import row_of, table_1, table_2
from svit_det.cli.classifiers_in_turn import Contender, evaluate_in_turn
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import Whole
from svit_det.cli.options import add_device, add_output, add_overwrite
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.errors import InputError
from svit_det.results import write_json


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="[NAME=]FILE", help="the dense model first")
    add("--data-root", help="folder in ImageNet's layout; default: the one each was trained on")
    size = "images at a time; default: as trained (TEST.BATCH_SIZE)"
    add("--batch-size", action=Whole, interval="[1, 100000]", help=size)
    add_device(parser)
    add_output(parser, "file of all figures", default="output/classification_tables.json")
    add_overwrite(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Evaluate and report; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All checkpoints, then both tables and the JSON."""
    check_output_file(args.output, suffixes=(".json",), overwrite=args.overwrite)
    refuse_input(args.output, files_read(args))
    options = {"DATA.ROOT": args.data_root, "TEST.BATCH_SIZE": args.batch_size}
    options |= {"MODEL.DEVICE": args.device}
    given = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    named = [_read(each, given) for each in args.checkpoints]
    found = evaluate_in_turn([each for _, each in named])
    rows = [row_of(name, one.cfg, each) for (name, one), each in zip(named, found, strict=True)]
    written = {
        "command": shlex.join(["python", "tools/classification_tables.py", *args.argv]),
        "machine": describe_machine(named[0][1].cfg.MODEL.DEVICE),
        "rows": [row.as_dict() for row in rows],
    }
    write_json(args.output, written)
    for number, table in ((1, table_1(rows)), (2, table_2(rows))):
        print(f"\nLayout of table {number}\n\n{table}")
    print(f"\nAll figures: {args.output}")
    return written


def _read(given: str, options: Sequence[str]) -> tuple[str, Contender]:
    name, _, path = given.rpartition("=")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file.")
    read = Contender.read(path, options)
    return name or read.cfg.MODEL.TOKEN_POLICY.NAME, read
