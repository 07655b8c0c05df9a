"""Runs the shipped models, dense, SViT and SViT-Adapter, on the default set's validation tiles.

    svit-det demo [--output output/demo]

Evaluates the models (box and mask AP, token usage), counts their arithmetic, times them, and draws
detections, heat maps and keep maps of the plain SViT. Ends with a table, results.json and a list of
the files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from tabulate import tabulate
from tqdm import tqdm

from svit_det.benchmark.detectors import count_detector
from svit_det.benchmark.timing import time_interleaved
from svit_det.cli.options import add_output, add_overrides
from svit_det.cli.output import check_output
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.pictures import write_pictures
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.run_log import log_into
from svit_det.detection.token_usage import SETS
from svit_det.detection.trained import read_trained
from svit_det.detection.trainer import TokenTrainer
from svit_det.files import make_folder, open_log
from svit_det.images import find_images, read_image, spread_out
from svit_det.results import write_json
from svit_det.visualization.usage_chart import draw_usage_chart
from svit_det.vit import find_token_net

ARMS = ("dense", "svit", "adapter_svit")
COMPARED = ("dense", "svit")
"""The two models that differ in nothing but pruning."""
NUM_PICTURES = 10
NUM_MEASURED = 10
"""Number of tiles on which arithmetic is counted and the models are timed."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_output(parser, "folder for pictures and results, which are replaced", default="output/demo")
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every step and say where its results are."""
    output = Path(args.output)
    check_output(output, (), overwrite=True)
    make_folder(output)
    log_into(output / "log.txt", ("detectron2", "svit_det"), on_stdout=False)
    arms = {name: load_arm(name, output, args.opts) for name in ARMS}
    cfg = arms["svit"].cfg
    tiles = find_images([MetadataCatalog.get(cfg.DATASETS.TEST[0]).image_root])

    results = {}
    for number, (name, arm) in enumerate(arms.items(), start=1):
        print(f"[{number}/5] {name}: AP and token usage on {len(tiles)} validation tiles")
        results[name] = evaluate(arm, output / name)
    print(f"[4/5] arithmetic and time, the models in turn, on {NUM_MEASURED} tiles")
    results["time"] = measure(arms, spread_out(tiles, NUM_MEASURED), results)
    print(f"[5/5] pictures of {NUM_PICTURES} tiles")
    draw(arms["svit"], spread_out(tiles, NUM_PICTURES), output / "pictures")
    draw_usage_chart(
        {
            name.replace("_", " "): results["svit"]["kept_share_per_block"][name]
            for name in SETS[:3]
        },
        output / "token_usage.png",
        title="Nuclei validation tiles: tokens that each block processes",
    )
    write_json(output / "results.json", results)
    report(results, output, cfg.DATASETS.TEST[0])
    return results


def load_arm(name: str, output: Path, options: list[str]) -> TokenPredictor:
    """The model `name` with its shipped weights."""
    folder = ["OUTPUT_DIR", str(output / name)]
    cfg = read_trained(options=[*folder, *options], config_file=f"configs/demo/{name}.yaml").cfg
    prepare_datasets(cfg, training=False)
    return TokenPredictor(cfg)


def evaluate(arm: TokenPredictor, folder: Path) -> dict:
    """AP and token usage over the validation set."""
    make_folder(folder)
    name = arm.cfg.DATASETS.TEST[0]
    loader = TokenTrainer.build_test_loader(arm.cfg, name)
    with open_log(folder / "coco.txt") as log, contextlib.redirect_stdout(log):
        found = inference_on_dataset(
            arm.model, tqdm(loader, unit="tile"), TokenTrainer.build_evaluator(arm.cfg, name)
        )
    usage = json.loads((folder / "token_usage.json").read_text())
    return {
        "box": {key: found["bbox"][key] for key in ("AP", "AP50", "AP75")},
        "mask": {key: found["segm"][key] for key in ("AP", "AP50", "AP75")},
        "kept_share_per_block": usage["kept_share_per_block"],
    }


@torch.no_grad()
def measure(arms: dict[str, TokenPredictor], tiles: list[Path], results: dict) -> dict:
    """Write multiply-adds into `results`; returns the times of trunk and detector, arms in turn."""
    inputs = [[arms["dense"].model_input(read_image(tile, "RGB"))] for tile in tiles]
    images = [arms["dense"].model.preprocess_image(given).tensor for given in inputs]
    with tqdm(total=len(arms) * len(tiles), unit="tile") as bar:
        for name, arm in arms.items():
            results[name]["gmacs"] = count_detector(arm.model, inputs, progress=bar.update)
    trunks = {name: find_token_net(arms[name].model).trunk for name in COMPARED}
    models = {name: arm.model for name, arm in arms.items()}
    return {"trunk": compare(trunks, images), "detector": compare(models, inputs)}


def compare(models: dict, inputs: list) -> dict:
    """Median seconds per tile of each arm, and median and quartiles of dense / svit."""
    with tqdm(total=2 * len(inputs) + 1, unit="tile") as progress:
        timed = time_interleaved(
            models,
            inputs,
            repeats=2,
            device=next(models["svit"].parameters()).device,
            progress=progress.update,
        )
    ratio = timed.ratio(*COMPARED)
    return {
        "seconds": {name: timed.spread(name).median for name in models},
        "ratio": ratio.median,
        "quartiles": [ratio.low, ratio.high],
    }


def draw(arm: TokenPredictor, tiles: list[Path], folder: Path) -> None:
    """Draw the detections beside the heat map, and the keep maps, of each tile."""
    for tile in tqdm(tiles, unit="tile"):
        write_pictures(arm(tile), folder, tile.stem, class_names=arm.class_names)


def milliseconds(timed: dict, name: str) -> float | None:
    """Milliseconds per tile; None for a model that was not timed."""
    return 1000 * timed["seconds"][name] if name in timed["seconds"] else None


def report(results: dict, output: Path, dataset: str) -> None:
    """Print the tables for people, and where the files are."""
    rows = []
    for name in ARMS:
        arm = results[name]
        kept = np.array(arm["kept_share_per_block"]["all"])
        rows.append(
            [
                name,
                arm["box"]["AP"],
                arm["box"]["AP50"],
                arm["mask"]["AP"],
                arm["mask"]["AP50"],
                arm["gmacs"]["trunk"],
                arm["gmacs"]["detector"],
                100 * kept.mean(),
                *(milliseconds(results["time"][part], name) for part in ("trunk", "detector")),
            ]
        )
    headers = ["model", "box AP", "AP50", "mask AP", "AP50", "trunk GMACs", "all GMACs"]
    headers += ["tokens kept %", "trunk ms", "all ms"]
    print(f"\n{dataset}: AP against the masks of this set; arithmetic and time per tile, batch 1")
    print(tabulate(rows, headers=headers, floatfmt=".1f", missingval="-"))
    for part, timed in results["time"].items():
        low, high = timed["quartiles"]
        print(f"{part}: dense / svit = x{timed['ratio']:.2f} (quartiles {low:.2f} to {high:.2f})")
    shares = results["svit"]["kept_share_per_block"]
    inside, outside = (100 * np.mean(shares[f"{where}_gt"]) for where in ("inside", "outside"))
    print(f"A token on a nucleus runs through {inside:.0f} % of the blocks, one off the nuclei")
    print(f"through {outside:.0f} %. Tokens kept by svit in percent, per block:")
    blocks = range(len(shares["all"]))
    print(
        tabulate(
            [[name.replace("_", " "), *(100 * np.array(shares[name]))] for name in SETS],
            headers=["block", *map(str, blocks)],
            floatfmt=".0f",
        )
    )
    print(f"\nPictures: {output}/pictures   chart: {output}/token_usage.png")
    print(f"All figures: {output}/results.json   log: {output}/log.txt")
