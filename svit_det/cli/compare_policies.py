"""Every policy fine-tuned alike from one dense detector, several seeds each, in one table.

    svit-det compare [--policies PATH.yaml NAME ...] [--seeds 1 2 3] [--steps 200]

All arms, the dense model among them, have the same parent, data, steps and rates. By default the
arms are those of configs/compare, which cost about the same. Finished trainings in --output are
kept, so that an interrupted run goes on. The command ends with tables, results.json, charts, and
the keep maps of a few tiles under every arm.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from tqdm import tqdm

from svit_det.benchmark.report import describe_machine
from svit_det.cli.again import command_again
from svit_det.cli.numbers import LONG, SEED, THREADS, Real, Whole
from svit_det.cli.options import (
    add_baseline,
    add_config_file,
    add_output,
    add_overrides,
    add_weights,
    baseline_of,
)
from svit_det.cli.output import check_output
from svit_det.comparison.arms import Arm, Recipe, arms_of, options_of, run_folder
from svit_det.comparison.cost import Reading, read_at_cost
from svit_det.comparison.measures import against_control, budgets_of, measure, time_arms
from svit_det.comparison.report import draw, draw_tiles, quality_table, usage_table
from svit_det.comparison.training import train_all
from svit_det.detection import load_config
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.run_log import log_into
from svit_det.errors import InputError
from svit_det.files import make_folder, real_path
from svit_det.images import find_images, spread_out
from svit_det.results import write_json
from svit_det.shipped import config_folder, existing_weights, find_config

NUM_MEASURED, NUM_PICTURES = 10, 3
CONTROLS = ("random", "monotone_random")
"""Compared with where they are among the arms and the command line names none."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    arms = sorted(map(str, (config_folder() / "compare").glob("*.yaml")))
    add(
        "--policies",
        nargs="+",
        default=arms,
        help="yaml files, or registered names, trained by --config-file; default: configs/compare",
    )
    seeds = "one training of each arm with each; default: 1 2 3"
    add("--seeds", action=Whole, interval=SEED, nargs="+", default=[1, 2, 3], help=seeds)
    add("--steps", action=Whole, interval=LONG, default=200, help="of each fine-tuning")
    jobs = "trainings at a time; they share the cores"
    add("--jobs", action=Whole, interval=THREADS, default=1, help=jobs)
    add_config_file(parser, "task and recipe", default="configs/base/nuclei_finetune.yaml")
    add_weights(parser, "the dense parent", default="configs/demo/dense.safetensors")
    add_output(
        parser,
        "folder for trainings and results; what is trained there is kept, the rest made anew",
        default="output/compare",
    )
    add_baseline(parser)
    add(
        "--controls",
        nargs="*",
        metavar="NAME",
        help="arms NAME_20, NAME_50 ... that the others are compared with at equal cost; default: "
        f"{' '.join(CONTROLS)}",
    )
    add(
        "--cost",
        action=Real,
        interval="(0, 1e6]",
        metavar="GMACS",
        help="read every arm off where its trunk spends this, by MODEL.TOKEN_POLICY.TEST_KEEP_RATIO"
        " found on training images, if its policy has a budget to set; dense and controls stay",
    )
    add_overrides(parser)
    return parser


def check(args: argparse.Namespace) -> Recipe:
    """Refuse options that cannot work before any training; returns the recipe."""
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: names one twice.")
    return Recipe(
        config_file=real_path(find_config(args.config_file)),
        weights=real_path(existing_weights(args.weights)),
        steps=args.steps,
        overrides=tuple(args.opts),
        output=real_path(args.output),
    )


def check_parent(recipe: Recipe, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    """Refuse a parent that one of the trainings would replace. Raises InputError."""
    for folder in (run_folder(recipe, arm, seed) for arm in arms for seed in seeds):
        if recipe.weights.parent == folder:
            raise InputError(
                f"--weights {recipe.weights}: lies in the folder of a training, which would "
                "replace it; name another --output."
            )


def choose_compared(args: argparse.Namespace, arms: Sequence[Arm]) -> None:
    """Set the baseline and the controls. Raises InputError for named ones that are no arms."""
    names = [arm.name for arm in arms]
    args.baseline = baseline_of(args, names)
    for control in args.controls or ():
        if len(budgets_of(names, control)) < 2:
            raise InputError(
                f"--controls {control}: needs two arms or more called {control}_ and a number, and "
                f"the arms are {', '.join(names)}."
            )
    args.controls = list(CONTROLS) if args.controls is None else args.controls


def take_readings(
    args: argparse.Namespace, recipe: Recipe, arms: Sequence[Arm], program: Sequence[str]
) -> dict[str, dict[int, Reading]]:
    """The readings by arm and seed: each training is measured as trained, or at the wanted cost."""
    controls = {name for each in args.controls for name in budgets_of([a.name for a in arms], each)}
    readings: dict[str, dict[int, Reading]] = {arm.name: {} for arm in arms}
    for arm in tqdm(arms, desc="readings", unit="arm"):
        for seed in args.seeds:
            if args.cost is None or arm.name in {args.baseline, *controls}:
                reading = Reading(run_folder(recipe, arm, seed))
            else:
                reading = read_at_cost(args.cost, arm, seed, recipe, arms, program)
            readings[arm.name][seed] = reading
    return readings


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing, then measure, draw and report."""
    recipe = check(args)
    arms = arms_of(args.policies, recipe)
    choose_compared(args, arms)
    check_parent(recipe, arms, args.seeds)
    check_output(args.output, (), overwrite=True)
    make_folder(recipe.output)
    first = arms[0]
    cfg = load_config(str(first.config_file), options_of(recipe, first, args.seeds[0], arms))
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; name the set that the arms are compared on.")
    prepare_datasets(cfg, training=True)
    print(f"{len(arms)} arms x {len(args.seeds)} seeds of {args.steps} steps")
    train = command_again("train", packages=args.packages)
    train_all(arms, args.seeds, recipe, jobs=args.jobs, program=train)
    log_into(recipe.output / "log.txt", ("svit_det",), on_stdout=False)
    dataset = cfg.DATASETS.TEST[0]
    tiles = find_images([MetadataCatalog.get(dataset).image_root])
    measured = spread_out(tiles, NUM_MEASURED)
    readings = take_readings(args, recipe, arms, train)
    results, models = measure(recipe, arms, readings, measured, dataset)
    time_arms(models, measured, results, baseline=args.baseline)
    for control in args.controls:
        against_control(results, control)
    draw(results, recipe.output, controls=args.controls)
    draw_tiles(models, spread_out(tiles, NUM_PICTURES), recipe.output / "pictures")
    written = {
        "command": shlex.join(["python", "tools/compare_policies.py", *args.argv]),
        "machine": describe_machine(cfg.MODEL.DEVICE),
        "dataset": dataset,
        "steps": args.steps,
        "cost_gmacs": args.cost,
        "policies": results,
    }
    write_json(recipe.output / "results.json", written)
    print(f"\n{dataset}, batch 1. Means over seeds {args.seeds}, smallest and largest in brackets;")
    print("time, with its quartiles, and the whole detector's arithmetic of the first seed.\n")
    known = [each for each in args.controls if any(f"over_{each}" in r for r in results.values())]
    print(quality_table(results, known), usage_table(results), sep="\n\n")
    print(f"\nPictures: {args.output}/pictures   charts: {args.output}/*.png")
    print(f"All figures: {args.output}/results.json")
    return written
