#!/usr/bin/env python3
"""Draw what a trained detector finds and which tokens it spends its blocks on.

    python tools/visualize_tokens.py --config-file configs/demo/svit.yaml \
        --weights configs/demo/svit.safetensors --input IMAGE_OR_FOLDER ... --output DIR

For each image it writes the detections beside the heat map of blocks per token, and the keep map of
each block that decides; token_usage.json holds the kept share per image and block. With
--annotations FILE.json the ground truth stands beside the detections. With
MODEL.TOKEN_POLICY.NAME AttentionProbe also what the class token looks at in each block.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from svit_det.detection import load_config
from svit_det.detection.datasets import num_classes
from svit_det.detection.pictures import write_pictures
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.usage_picture import Annotations
from svit_det.errors import InputError
from svit_det.images import find_images
from svit_det.results import write_json


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True, help="yaml of the trained model")
    parser.add_argument("--weights", required=True, help=".safetensors or .pth")
    parser.add_argument("--input", required=True, nargs="+", help="image files or folders of them")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--min-score", type=float, default=0.5, help="of a detection that is drawn")
    parser.add_argument("--annotations", help="COCO-format json with the images' ground truth")
    parser.add_argument(
        "--full-scale", action="store_true", help="colours from 0 to all blocks, and every keep map"
    )
    parser.add_argument(
        "--format", choices=("png", "jpg"), default="png", help="of the pictures; default: png"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Run every image and write its pictures."""
    paths = find_images(args.input)
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.WEIGHTS = args.weights
    output = Path(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error}).") from error
    annotations = Annotations(args.annotations) if args.annotations else None
    predictor = TokenPredictor(cfg)
    class_names = predictor.class_names
    if class_names is None and annotations and len(annotations.names) == num_classes(cfg.MODEL):
        class_names = annotations.names
    usage, rows, taken = {}, [], set()
    for path in tqdm(paths, desc="images", unit="image"):
        prediction = predictor(path)
        stem = unused_stem(path, taken)
        write_pictures(
            prediction,
            output,
            stem,
            min_score=args.min_score,
            class_names=class_names,
            annotated=annotations.of(path) if annotations else None,
            full_scale=args.full_scale,
            suffix=f".{args.format}",
        )
        shares = prediction.usage.mean(axis=(1, 2))
        usage[str(path)] = {"kept_share_per_block": shares.tolist(), "pictures": stem}
        found = int((prediction.instances.scores >= args.min_score).sum())
        rows.append([path.name, found, 100 * shares.mean(), *(100 * shares)])
    blocks = [str(layer) for layer in range(cfg.MODEL.VIT.DEPTH)]
    print("Tokens kept in percent, per block:")
    print(tabulate(rows, headers=["image", "found", "mean", *blocks], floatfmt=".0f"))
    write_json(output / "token_usage.json", usage)
    print(f"Pictures and token_usage.json are in {output}")


def unused_stem(path: Path, taken: set[str]) -> str:
    """A name for the pictures of `path`, kept apart from images of the same name elsewhere."""
    stem, number = path.stem, 2
    while stem in taken:
        stem, number = f"{path.stem}_{number}", number + 1
    taken.add(stem)
    return stem


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except InputError as problem:
        sys.exit(f"visualize_tokens.py: {problem}")
