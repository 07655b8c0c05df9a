#!/usr/bin/env python3
"""Every policy fine-tuned alike from one dense detector, several seeds each, in one table.

    python tools/compare_policies.py [--policies Dense SViT ...] [--seeds 1 2 3] [--steps 200]

Same parent, data, steps and rates for all, Dense among them. Finished trainings in --output are
kept, so that a run that was cut short goes on. Ends with a table, results.json, a chart of the
tokens that each block keeps, and the keep maps of a few tiles under every policy.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

from svit_det.benchmark.detectors import count_detector
from svit_det.benchmark.report import describe_machine
from svit_det.benchmark.timing import time_interleaved
from svit_det.detection import load_config
from svit_det.detection.config import unused_keys
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.pictures import write_pictures
from svit_det.detection.predictor import TokenPredictor
from svit_det.errors import InputError
from svit_det.images import find_images, read_image, spread_out
from svit_det.policies import POLICY_REGISTRY
from svit_det.results import write_json
from svit_det.visualization.usage_chart import draw_usage_chart

TRAIN = Path(__file__).resolve().parent / "train_net.py"
BASELINE = "Dense"
POLICIES = (BASELINE, "SViT", "EViT", "ATS", "EvoViT")
NUM_MEASURED, NUM_PICTURES = 10, 3


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--policies", nargs="+", default=list(POLICIES), help="default: all that are implemented")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--steps", type=int, default=200, help="of each fine-tuning")
    add("--jobs", type=int, default=1, help="trainings at a time; they share the cores")
    add("--config-file", default="configs/base/nuclei_finetune.yaml", help="task and recipe")
    add("--weights", default="configs/demo/dense.safetensors", help="the dense parent")
    add("--output", default="output/compare", help="folder for trainings and results")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be trained before anything is."""
    for policy in args.policies:
        POLICY_REGISTRY.named(policy, "--policies")
    for name, values in (("--policies", args.policies), ("--seeds", args.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{name} {' '.join(map(str, values))}: names one twice.")
    if min(args.steps, args.jobs) < 1:
        raise InputError("--steps and --jobs must be at least 1.")
    if not Path(args.weights).is_file():
        raise InputError(f"--weights {args.weights}: no such file.")


def run_folder(args: argparse.Namespace, policy: str, seed: int) -> Path:
    """Where one training leaves its log, weights and results."""
    return Path(args.output).resolve() / f"{policy}_seed{seed}"


def options_of(args: argparse.Namespace, policy: str, seed: int) -> list[str]:
    """One training's overrides."""
    # The rate falls where the demo's does; a few steps to try the command out have no such place.
    falls = tuple(sorted({int(0.75 * args.steps), int(0.9 * args.steps)} - {0}))
    options = ["MODEL.WEIGHTS", str(Path(args.weights).resolve())]
    options += ["MODEL.TOKEN_POLICY.NAME", policy, "SEED", str(seed)]
    options += ["SOLVER.MAX_ITER", str(args.steps), "SOLVER.STEPS", str(falls)]
    options += ["SOLVER.CHECKPOINT_PERIOD", str(args.steps)]
    options += overrides_for(policy, args)
    return [*options, "OUTPUT_DIR", str(run_folder(args, policy, seed))]


def overrides_for(policy: str, args: argparse.Namespace) -> list[str]:
    """The command line's overrides, without the keys that only others of --policies use."""
    unused = {each: set(unused_keys(each)) for each in args.policies}
    for_others = unused[policy] - set.intersection(*unused.values())
    refused = {f"MODEL.TOKEN_POLICY.{key}" for key in for_others}
    pairs = [args.opts[start : start + 2] for start in range(0, len(args.opts), 2)]
    return [word for pair in pairs if pair[0] not in refused for word in pair]


def train(args: argparse.Namespace, policy: str, seed: int) -> None:
    """One fine-tuning with its evaluation, in a process of its own, unless it is there already."""
    folder = run_folder(args, policy, seed)
    config = str(Path(args.config_file).resolve())
    settings, record = [config, *options_of(args, policy, seed)], folder / "trained_with.json"
    if record.is_file():
        if json.loads(record.read_text())["settings"] == settings:
            return
        raise InputError(f"{folder} holds a training with other settings: name another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), "--config-file", *settings]
    threads = max(torch.get_num_threads() // args.jobs, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(folder / "output.txt", "w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InputError(f"Training {policy} with seed {seed} failed: {folder / 'output.txt'}.")
    write_json(record, {"settings": settings})


def train_all(args: argparse.Namespace) -> None:
    """Every policy with every seed, seed by seed."""
    runs = [(policy, seed) for seed in args.seeds for policy in args.policies]
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(runs), unit="training") as bar:
        for future in [pool.submit(train, args, *run) for run in runs]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            bar.update()


def read_run(folder: Path, dataset: str) -> dict:
    """AP and usage of one evaluated training."""
    found = json.loads((folder / "results.json").read_text())
    found = found.get(dataset, found)
    usage = json.loads((folder / "token_usage.json").read_text())
    kept = usage["kept_share_per_block"]
    pruned = [share < 1 for share in kept["all"]]
    first = pruned.index(True) if any(pruned) else len(pruned)
    back = usage["share_that_block_before_skipped"][first:]
    same = usage["overlap_with_block_before"][first:]
    return {
        "box_ap": found["bbox"]["AP"],
        "mask_ap": found["segm"]["AP"],
        "kept": 100 * float(np.mean(kept["all"])),
        "kept_on_objects": 100 * float(np.mean(kept["inside_gt"])),
        "kept_off_objects": 100 * float(np.mean(kept["outside_gt"])),
        # Over the blocks after the first that prunes; nothing to say where none does.
        "overlap": 100 * float(np.mean(same)) if same else None,
        "returning": 100 * float(np.mean(back)) if back else None,
        "kept_share_per_block": kept["all"],
    }


def load(args: argparse.Namespace, policy: str, seed: int) -> TokenPredictor:
    """One trained detector."""
    weights = str(run_folder(args, policy, seed) / "model_final.pth")
    options = [*options_of(args, policy, seed), "MODEL.WEIGHTS", weights]
    return TokenPredictor(load_config(args.config_file, options))


@torch.no_grad()
def measure(models: dict[str, TokenPredictor], tiles: list[Path], results: dict) -> None:
    """Multiply-adds of the first seed's detectors, and their times in turn."""
    first = next(iter(models.values()))
    inputs = [[first.model_input(read_image(tile, "RGB"))] for tile in tiles]
    with tqdm(total=len(models) * len(tiles), desc="multiply-adds", unit="tile") as bar:
        for policy, predictor in models.items():
            results[policy]["gmacs"] = count_detector(predictor.model, inputs, progress=bar.update)
    with tqdm(total=2 * len(inputs) + 1, desc="times", unit="tile") as bar:
        timed = time_interleaved(
            {policy: predictor.model for policy, predictor in models.items()},
            inputs,
            repeats=2,
            device=first.model.device,
            progress=bar.update,
        )
    for policy in models:
        results[policy]["seconds"] = vars(timed.spread(policy))
        if BASELINE in models:
            results[policy]["speed_up_over_dense"] = vars(timed.ratio(BASELINE, policy))


def draw(models: dict[str, TokenPredictor], tiles: list[Path], results: dict, folder: Path) -> None:
    """The chart of kept tokens, and detections, heat map and keep maps of tiles by policy."""
    (folder / "pictures").mkdir(exist_ok=True)
    for policy, predictor in models.items():
        for tile in tiles:
            write_pictures(
                predictor(tile),
                folder / "pictures",
                f"{tile.stem}_{policy}",
                class_names=predictor.class_names,
            )
    shares = {
        policy: np.mean([run["kept_share_per_block"] for run in found["runs"].values()], axis=0)
        for policy, found in results.items()
    }
    draw_usage_chart(
        shares, folder / "kept_tokens.png", title="Tokens that each block processes, mean of seeds"
    )


def spread(found: dict, key: str) -> str:
    """Mean over the seeds, smallest and largest in brackets."""
    values = [run[key] for run in found["runs"].values()]
    if any(value is None for value in values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def table(results: dict) -> str:
    """One line per policy."""
    headers = ["policy", "box AP", "mask AP", "trunk GMACs", "all GMACs", "ms", "dense / this"]
    headers += ["kept %", "on objects %", "off objects %", "overlap %", "returning %"]
    keys = ("kept", "kept_on_objects", "kept_off_objects", "overlap", "returning")
    lines = []
    for policy, found in results.items():
        line = [policy, spread(found, "box_ap"), spread(found, "mask_ap")]
        line += [f"{found['gmacs'][part]:.2f}" for part in ("trunk", "detector")]
        line.append(f"{1000 * found['seconds']['median']:.0f}")
        ratio = found.get("speed_up_over_dense")
        line.append(
            f"x{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        )
        lines.append([*line, *(spread(found, key) for key in keys)])
    return tabulate(lines, headers=headers, disable_numparse=True)


def main(args: argparse.Namespace) -> None:
    """Train what is missing, then measure, draw and report."""
    check(args)
    output = Path(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error}).") from error
    cfg = load_config(args.config_file, options_of(args, args.policies[0], args.seeds[0]))
    prepare_datasets(cfg, training=True)
    print(f"{len(args.policies)} policies x {len(args.seeds)} seeds of {args.steps} steps")
    train_all(args)
    setup_logger(str(output / "log.txt"), name="svit_det", configure_stdout=False)
    dataset = cfg.DATASETS.TEST[0]
    results = {
        policy: {
            "runs": {
                str(seed): read_run(run_folder(args, policy, seed), dataset) for seed in args.seeds
            }
        }
        for policy in args.policies
    }
    models = {policy: load(args, policy, args.seeds[0]) for policy in args.policies}
    tiles = find_images([MetadataCatalog.get(dataset).image_root])
    measure(models, spread_out(tiles, NUM_MEASURED), results)
    draw(models, spread_out(tiles, NUM_PICTURES), results, output)
    written = {
        "command": shlex.join(["python", "tools/compare_policies.py", *args.argv]),
        "machine": describe_machine(cfg.MODEL.DEVICE),
        "dataset": dataset,
        "steps": args.steps,
        "policies": results,
    }
    write_json(output / "results.json", written)
    print(f"\n{dataset}, batch 1. Means over seeds {args.seeds}, smallest and largest in brackets;")
    print("arithmetic and time of the first seed, quartiles in brackets.\n")
    print(table(results))
    print(f"\nPictures: {output}/pictures   chart: {output}/kept_tokens.png")
    print(f"All figures: {output}/results.json")


if __name__ == "__main__":
    try:
        arguments = parse_arguments(sys.argv[1:])
        arguments.argv = sys.argv[1:]
        main(arguments)
    except InputError as problem:
        sys.exit(f"compare_policies.py: {problem}")
