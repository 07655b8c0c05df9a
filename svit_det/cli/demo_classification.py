"""The shipped classifiers at work on digits: accuracy, cost, and which tokens run.

    make demo-classification          or: python tools/demo_classification.py

The dense model and SViT, fine-tuned from it, on the 1,000 digits that neither has trained on: the
supplementary's table 1 for this set, heat maps over digits, and all figures as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from svit_det.benchmark.report import describe_machine
from svit_det.classification.evaluation import evaluate
from svit_det.classification.folder import LabelledImages, read_split
from svit_det.classification.images import test_transform
from svit_det.classification.load import read_trained
from svit_det.classification.loading import val_loader
from svit_det.classification.model import LOGITS, TokenClassifier
from svit_det.classification.processes import Processes
from svit_det.classification.tables import row_of, table_1
from svit_det.errors import InputError
from svit_det.images import read_image, spread_out
from svit_det.results import write_json
from svit_det.visualization import draw_heatmap, side_by_side, write_image

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"dense": "dense.safetensors", "svit": "svit.safetensors"}
NUM_PICTURES, IN_A_ROW = 10, 5


def main(argv: Sequence[str]) -> str | None:
    """Evaluate, draw, report; returns what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT / "datasets" / "digits"), help="the digits")
    parser.add_argument("--output", default="output/demo_classification", help="folder to write to")
    args = parser.parse_args(argv)
    try:
        run(args.data, Path(args.output))
    except InputError as problem:
        return str(problem)
    return None


def run(data: str, output: Path) -> None:
    """The whole demo."""
    options = ["DATA.ROOT", data, "DATA.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
    rows, last = [], None
    for name, file in MODELS.items():
        cfg, model = read_trained(str(ROOT / "configs" / "digits" / file), options)
        images = read_split(data, cfg.DATA.VAL, num_classes=cfg.MODEL.NUM_CLASSES)
        found = evaluate(model, val_loader(cfg, images, Processes()), images)
        rows.append(row_of(name, cfg, found))
        last = cfg, model, images
    assert last is not None
    pictures = draw(*last, output)
    print(f"\n{rows[0].found.images} digits of MNIST's 5,000, 56 x 56 pixels, 196 tokens each\n")
    print(table_1(rows))
    kept = " ".join(f"{count:.0f}" for count in rows[-1].found.tokens_per_block)
    print(f"\nPatch tokens that each block of svit kept: {kept}")
    content = {
        "machine": describe_machine("cpu"),
        "rows": [row.as_dict() for row in rows],
    }
    write_json(output / "results.json", content)
    print(f"Heat maps: {pictures}   all figures: {output}/results.json")


@torch.no_grad()
def draw(cfg: Any, model: TokenClassifier, images: LabelledImages, output: Path) -> Path:
    """Heat maps of a few digits in one picture, each with the answer above."""
    transform, strips, row, captions = test_transform(cfg.INPUT), [], [], []
    for path, label in tqdm(spread_out(images.files, NUM_PICTURES), unit="digit"):
        pixels = read_image(path, "RGB")
        outputs, record = model(transform(Image.fromarray(pixels))[None])
        answer = images.classes[int(outputs[LOGITS].argmax())]
        keep = record.keep_maps()[0].numpy()
        row.append(draw_heatmap(pixels, keep, grid=record.grid))
        captions.append(f"{images.classes[label]}: answer {answer}")
        if len(row) == IN_A_ROW:
            strips.append(side_by_side(row, captions, height=256))
            row, captions = [], []
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0)), constant_values=255)
        for each in strips
    ]
    target = output / "digits.png"
    write_image(target, np.concatenate(padded))
    return target
