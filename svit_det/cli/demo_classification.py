"""Runs the shipped classifiers on digits: accuracy, cost, the tokens that run, and speed.

    make demo-classification          or: svit-det demo-classification

The models are the dense model and SViT, which was fine-tuned from the dense model. The digits are
1,000 that neither model was trained on. The command writes the supplementary's table 1 for this
set, heat maps over digits, its figure 1 for small batches, and all numbers as JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from svit_det.benchmark.report import describe_machine
from svit_det.classification.images import test_transform
from svit_det.classification.model import LOGITS
from svit_det.classification.tables import row_of, table_1
from svit_det.cli import benchmark_classifier
from svit_det.cli.classifiers_in_turn import Contender, evaluate_in_turn
from svit_det.cli.options import add_output
from svit_det.cli.output import check_output
from svit_det.images import read_image, spread_out
from svit_det.results import write_json
from svit_det.shipped import get_weights_file
from svit_det.visualization import UsagePicture, UsageScale, draw_heatmap, write_image
from svit_det.visualization.canvas import stack
from svit_det.visualization.overview import row

MODELS = ("dense", "svit")
DEVICE = "cpu"
"""The device of every number of this demo, on a machine with a GPU too."""
NUM_PICTURES, IN_A_ROW, SIDE = 10, 5, 224
SPEED = "--batch-sizes 1 2 4 8 --batches 3 --repeats 3 --plot --overwrite"
"""What figure 1 is measured over here: seconds instead of the supplementary's hours."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", default="datasets/digits", help="default: %(default)s")
    add_output(parser, "folder to write to", default="output/demo_classification")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole demo."""
    data, output = args.data_root, Path(args.output)
    check_output(output, (), overwrite=True)
    options = ["DATA.ROOT", data, "DATA.NUM_WORKERS", "0", "MODEL.DEVICE", DEVICE]
    models = [Contender.read(get_weights_file(f"digits/{name}"), options) for name in MODELS]
    rows = [
        row_of(name, each.cfg, found)
        for name, each, found in zip(MODELS, models, evaluate_in_turn(models), strict=True)
    ]
    pictures = draw(models[-1], output)
    print(f"\n{rows[0].found.images} digits of MNIST's 5,000, 56 x 56 pixels, 196 tokens each\n")
    print(table_1(rows))
    kept = " ".join(f"{count:.0f}" for count in rows[-1].found.tokens_per_block)
    print(f"\nPatch tokens that each block of svit kept: {kept}")
    content = {
        "machine": describe_machine(DEVICE),
        "rows": [row.as_dict() for row in rows],
        "speed": measure_speed(Path(data) / models[-1].cfg.DATA.VAL, output / "speed")[
            "throughput"
        ],
    }
    write_json(output / "results.json", content)
    print(f"Heat maps: {pictures}   all figures: {output}/results.json")
    return content


def measure_speed(pictures: Path, output: Path) -> dict[str, Any]:
    """Images per second over batch sizes, dense beside SViT in each way of unequal lengths."""
    words = ["--config-file", "digits/compare/svit", "--weights", get_weights_file("digits/svit")]
    words += ["--image-folder", str(pictures), "--output", str(output), *SPEED.split()]
    words += ["--device", DEVICE]
    args = benchmark_classifier.build_parser().parse_args(words)
    args.argv = words
    return benchmark_classifier.run(args)


@torch.no_grad()
def draw(read: Contender, output: Path) -> Path:
    """Draw heat maps of a few digits in one picture, each below the model's answer."""
    model, images = read.model, read.images
    transform, pictures, captions = test_transform(read.cfg.INPUT), [], []
    for path, label in tqdm(spread_out(images.files, NUM_PICTURES), unit="digit"):
        pixels = read_image(path, "RGB")
        outputs, record = model(transform(Image.fromarray(pixels))[None])
        answer = images.classes[int(outputs[LOGITS].argmax())]
        keep = record.keep_maps()[0].numpy()
        pictures.append(UsagePicture(image=pixels, keep=keep, grid=record.grid))
        captions.append(f"{images.classes[label]}: answer {answer}")
    scale = UsageScale.over(pictures)
    drawn = [draw_heatmap(each, (SIDE, SIDE), scale=scale) for each in pictures]
    rows = [
        row(drawn[at : at + IN_A_ROW], captions[at : at + IN_A_ROW], text=14)
        for at in range(0, len(drawn), IN_A_ROW)
    ]
    target = output / "digits.png"
    write_image(target, stack(rows, 0, 14))
    return target
