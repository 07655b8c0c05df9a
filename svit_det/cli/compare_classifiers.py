"""Every policy fine-tuned alike from one dense classifier, several seeds each, in one table.

    svit-det compare-classifiers [--seeds 1 2 3] [--policies FILE.yaml ...]
    svit-det compare-classifiers --policies photographs/compare --output output/photographs_compare

By default the arms are those of configs/digits/compare: eleven policies with about as many
multiply-adds as SViT's own schedule. The images are the digits that tools/setup/prepare_digits.py
makes. configs/photographs/compare has the same policies for the photographs that svit-det
prepare-photographs makes, with the classifier of configs/photographs/dense.yaml as parent.
Finished trainings in --output are kept, so that an interrupted run goes on. The command ends with a
table, a chart and results.json.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from svit_det.benchmark.report import describe_machine
from svit_det.classification.comparison import (
    Trainings,
    arms_of,
    comparison_table,
    results_of,
    train_all,
)
from svit_det.cli.again import command_again
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import SEED, Whole
from svit_det.cli.options import add_baseline, add_output, add_overrides, baseline_of
from svit_det.cli.output import check_output
from svit_det.errors import InputError
from svit_det.files import real_path
from svit_det.results import write_json
from svit_det.visualization.comparison_charts import (
    Point,
    draw_quality_over_cost,
    draw_share_table,
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--policies",
        nargs="+",
        default=["digits/compare"],
        metavar="YAML",
        help="yaml files, folders of yaml files, or names of shipped ones, such as "
        "photographs/compare; default: digits/compare",
    )
    seeds = "one training of each arm with each; default: 1 2 3"
    add("--seeds", action=Whole, interval=SEED, nargs="+", default=[1, 2, 3], help=seeds)
    add_output(parser, "folder for trainings and results", default="output/compare_classifiers")
    add_baseline(parser)
    add_overrides(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Train what is missing, then report; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison."""
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: names one twice.")
    check_output(args.output, (), overwrite=True)
    output = real_path(args.output)
    trainings = Trainings(arms_of(args.policies), args.seeds, args.opts, output)
    baseline = baseline_of(args, list(trainings.arms))
    print(f"{len(trainings.arms)} arms x {len(args.seeds)} seeds")
    train_all(trainings, program=command_again("classify", packages=args.packages))
    results = results_of(trainings)
    points, shares = {}, {}
    for arm, found in results.items():
        runs = list(found["runs"].values())
        cost = sum(each["gmacs"] for each in runs) / len(runs)
        points[arm] = Point(cost, [each["top1"] for each in runs])
        counts = [[count / each["tokens"] for count in each["tokens_per_block"]] for each in runs]
        shares[arm] = [sum(column) / len(column) for column in zip(*counts, strict=True)]
    draw_quality_over_cost(
        points,
        output / "top1_over_cost.png",
        lines={},
        cost_label="giga multiply-adds of the classifier",
        value_label="top-1, percent",
    )
    draw_share_table(shares, output / "kept_tokens.png")
    written = {
        "command": shlex.join(["python", "tools/compare_classifiers.py", *args.argv]),
        "machine": describe_machine(trainings.device()),
        "policies": results,
    }
    write_json(output / "results.json", written)
    print(f"\nMeans over seeds {args.seeds}, smallest and largest in brackets.\n")
    print(comparison_table(results, baseline))
    print(f"\nCharts: {args.output}/*.png   all figures: {args.output}/results.json")
    return written
