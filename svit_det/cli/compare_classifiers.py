"""Every policy fine-tuned alike from one dense classifier, several seeds each, in one table.

    python tools/compare_classifiers.py [--seeds 1 2 3] [--policies FILE.yaml ...]

By default the arms of configs/digits/compare, eleven policies at about the arithmetic of SViT's own
schedule, on the digits that tools/prepare_digits.py makes. Finished trainings in --output are kept,
so that a run that was cut short goes on. Ends with a table, a chart and results.json.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from svit_det.benchmark.report import describe_machine
from svit_det.classification.comparison import (
    Trainings,
    arms_of,
    comparison_table,
    results_of,
    train_all,
)
from svit_det.errors import InputError
from svit_det.results import write_json
from svit_det.visualization.comparison_charts import (
    Point,
    draw_quality_over_cost,
    draw_share_table,
)

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    arms = sorted(map(str, (ROOT / "configs" / "digits" / "compare").glob("*.yaml")))
    add("--policies", nargs="+", default=arms, help="yaml files; default: configs/digits/compare")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--output", default="output/compare_classifiers", help="default: %(default)s")
    add("--baseline", default="dense", help="arm that the others are compared with")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def main(argv: Sequence[str], *, program: Path) -> str | None:
    """Train what is missing with `program`, train_classifier.py, then report.

    Returns what is wrong.
    """
    args = parse_arguments(argv)
    try:
        run(args, argv, program)
    except InputError as problem:
        return str(problem)
    return None


def run(args: argparse.Namespace, argv: Sequence[str], program: Path) -> None:
    """The whole comparison."""
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: names one twice.")
    output = Path(args.output).resolve()
    trainings = Trainings(arms_of(args.policies), args.seeds, args.opts, output)
    print(f"{len(trainings.arms)} arms x {len(args.seeds)} seeds")
    train_all(trainings, program=program)
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
        "command": shlex.join(["python", "tools/compare_classifiers.py", *argv]),
        "machine": describe_machine("cpu"),
        "policies": results,
    }
    write_json(output / "results.json", written)
    print(f"\nMeans over seeds {args.seeds}, smallest and largest in brackets.\n")
    print(comparison_table(results, args.baseline))
    print(f"\nCharts: {args.output}/*.png   all figures: {args.output}/results.json")
