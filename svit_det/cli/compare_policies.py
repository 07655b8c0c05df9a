"""Every policy fine-tuned alike from one dense detector, several seeds each, in one table.

    python tools/compare_policies.py [--policies PATH.yaml NAME ...] [--seeds 1 2 3] [--steps 200]

Same parent, data, steps and rates for all, the dense model among them. By default the arms of
configs/compare, which spend about the same. Finished trainings in --output are kept, so that a run
that was cut short goes on. Ends with tables, results.json, charts, and the keep maps of a few tiles
under every arm.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from svit_det.benchmark.report import describe_machine
from svit_det.comparison.arms import Arm, Recipe, arms_of, options_of, run_folder
from svit_det.comparison.cost import Reading, read_at_cost
from svit_det.comparison.measures import against_control, budgets_of, measure, time_arms
from svit_det.comparison.report import draw, draw_tiles, quality_table, usage_table
from svit_det.comparison.training import train_all
from svit_det.detection import load_config
from svit_det.detection.datasets import prepare_datasets
from svit_det.errors import InputError
from svit_det.images import find_images, spread_out
from svit_det.results import write_json

ROOT = Path(__file__).resolve().parents[2]
NUM_MEASURED, NUM_PICTURES = 10, 3


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    arms = sorted(map(str, (ROOT / "configs" / "compare").glob("*.yaml")))
    add(
        "--policies",
        nargs="+",
        default=arms,
        help="yaml files, or registered names, trained by --config-file; default: configs/compare",
    )
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--steps", type=int, default=200, help="of each fine-tuning")
    add("--jobs", type=int, default=1, help="trainings at a time; they share the cores")
    add("--config-file", default="configs/base/nuclei_finetune.yaml", help="task and recipe")
    add("--weights", default="configs/demo/dense.safetensors", help="the dense parent")
    add("--output", default="output/compare", help="folder for trainings and results")
    add("--baseline", default="dense", help="arm that times are compared with (default: dense)")
    add(
        "--controls",
        nargs="*",
        default=["random", "monotone_random"],
        help="arms NAME_20, NAME_50 ... that the others are compared with at equal cost",
    )
    add(
        "--cost",
        type=float,
        metavar="GMACS",
        help="read every arm off where its trunk spends this, by MODEL.TOKEN_POLICY.TEST_KEEP_RATIO"
        " found on training images, if its policy has a budget to set; dense and controls stay",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> Recipe:
    """Refuse what cannot be trained before anything is."""
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: names one twice.")
    if min(args.steps, args.jobs) < 1:
        raise InputError("--steps and --jobs must be at least 1.")
    if args.cost is not None and not 0 < args.cost < float("inf"):
        raise InputError("--cost must be a positive number of giga multiply-adds.")
    if not Path(args.weights).is_file():
        raise InputError(f"--weights {args.weights}: no such file.")
    return Recipe(
        config_file=Path(args.config_file).resolve(),
        weights=Path(args.weights).resolve(),
        steps=args.steps,
        overrides=tuple(args.opts),
        output=Path(args.output).resolve(),
    )


def main(argv: Sequence[str], *, program: Path) -> str | None:
    """Train what is missing with `program`, train_net.py, then measure, draw and report.

    Returns what is wrong.
    """
    args = parse_arguments(argv)
    try:
        run(args, check(args), argv, program)
    except InputError as problem:
        return str(problem)
    return None


def take_readings(
    args: argparse.Namespace, recipe: Recipe, arms: Sequence[Arm], program: Path
) -> dict[str, dict[int, Reading]]:
    """Where each training is measured: as trained, or at the wanted cost."""
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


def run(args: argparse.Namespace, recipe: Recipe, argv: Sequence[str], program: Path) -> None:
    """The whole comparison."""
    arms = arms_of(args.policies, recipe)
    try:
        recipe.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {args.output}: cannot be written ({error}).") from error
    first = arms[0]
    cfg = load_config(str(first.config_file), options_of(recipe, first, args.seeds[0], arms))
    prepare_datasets(cfg, training=True)
    print(f"{len(arms)} arms x {len(args.seeds)} seeds of {args.steps} steps")
    train_all(arms, args.seeds, recipe, jobs=args.jobs, program=program)
    setup_logger(str(recipe.output / "log.txt"), name="svit_det", configure_stdout=False)
    dataset = cfg.DATASETS.TEST[0]
    tiles = find_images([MetadataCatalog.get(dataset).image_root])
    measured = spread_out(tiles, NUM_MEASURED)
    readings = take_readings(args, recipe, arms, program)
    results, models = measure(recipe, arms, readings, measured, dataset)
    time_arms(models, measured, results, baseline=args.baseline)
    for control in args.controls:
        against_control(results, control)
    draw(results, recipe.output, controls=args.controls)
    draw_tiles(models, spread_out(tiles, NUM_PICTURES), recipe.output / "pictures")
    written = {
        "command": shlex.join(["python", "tools/compare_policies.py", *argv]),
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
