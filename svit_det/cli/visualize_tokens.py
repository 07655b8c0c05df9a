"""Draw the detections of a trained detector, and the tokens that its blocks kept.

    svit-det visualize --weights FILE --output DIR PICTURE_OR_FOLDER ... [KEY VALUE ...]

For each picture the command writes the detections beside the heat map of blocks per token, and the
keep map of each block that decides; token_usage.json holds the kept share per picture and block.
With --annotations FILE.json the ground truth stands beside the detections. With
MODEL.TOKEN_POLICY.NAME AttentionProbe the command also draws the class token's attention in each
block. The config comes with the weights, or the weights with the config that names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_output,
    add_overwrite,
    add_pictures,
    add_weights,
    pictures_of,
)
from svit_det.cli.output import check_output
from svit_det.cli.unread import none_usable, say_unread
from svit_det.detection.datasets import num_classes
from svit_det.detection.pictures import write_pictures
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import read_trained
from svit_det.detection.usage_picture import Annotations
from svit_det.errors import InputError
from svit_det.images import find_images
from svit_det.results import write_json

USAGE = "token_usage.json"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_pictures(parser)
    add_weights(parser, "trained weights; default: the ones that --config-file names")
    add_config_file(parser, "of the model; default: what the weights carry")
    add_output(parser, "folder for the pictures", required=True)
    parser.add_argument("--min-score", type=float, default=0.5, help="of a detection that is drawn")
    parser.add_argument("--annotations", help="COCO-format json with the pictures' ground truth")
    parser.add_argument(
        "--full-scale", action="store_true", help="colours from 0 to all blocks, and every keep map"
    )
    parser.add_argument(
        "--format", choices=("png", "jpg"), default="png", help="of the pictures; default: png"
    )
    add_overwrite(parser)
    add_allow_untrained(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every picture and write the drawings."""
    pictures, options = pictures_of(args)
    if not pictures:
        raise InputError("No picture is named: give files or folders.")
    paths = find_images(pictures)
    stems = stems_of(paths)
    output = Path(args.output)
    suffix = f".{args.format}"
    names = [f"{stem}_detections_heatmap{suffix}" for stem in stems]
    check_output(output, [USAGE, *names], overwrite=args.overwrite)
    annotations = Annotations(args.annotations) if args.annotations else None
    trained = read_trained(args.weights, options, config_file=args.config_file)
    class_names = names_among(trained.class_names, annotations, trained.cfg)
    predictor = TokenPredictor(trained.cfg, allow_untrained=args.allow_untrained)
    usage, rows, unread = {}, [], []
    for path, stem in zip(tqdm(paths, desc="images", unit="image"), stems, strict=True):
        try:
            prediction = predictor(path)
            size = prediction.image.shape[:2]
            truth = annotations.of(path, size) if annotations else None
        except InputError as error:
            unread.append(str(error))
            continue
        write_pictures(
            prediction,
            output,
            stem,
            min_score=args.min_score,
            class_names=class_names,
            annotated=truth,
            full_scale=args.full_scale,
            suffix=suffix,
        )
        shares = prediction.usage.mean(axis=(1, 2))
        usage[str(path)] = {"kept_share_per_block": shares.tolist(), "pictures": stem}
        found = int((prediction.instances.scores >= args.min_score).sum())
        rows.append([path.name, found, 100 * shares.mean(), *(100 * shares)])
    if not rows:
        raise none_usable(unread)
    blocks = [str(layer) for layer in range(trained.cfg.MODEL.VIT.DEPTH)]
    print("Tokens kept in percent, per block:")
    print(tabulate(rows, headers=["image", "found", "mean", *blocks], floatfmt=".0f"))
    write_json(output / USAGE, usage)
    say_unread(unread, len(paths))
    print(f"Pictures and {USAGE} are in {output}")
    return {"output": str(output), "pictures": usage, "unread": unread}


def names_among(
    own: Sequence[str] | None, annotations: Annotations | None, cfg: CfgNode
) -> Sequence[str] | None:
    """The model's class names; else the annotations' names, where the number of classes fits."""
    if own is None and annotations and len(annotations.names) == num_classes(cfg.MODEL):
        return annotations.names
    return own


def stems_of(paths: list[Path]) -> list[str]:
    """The stem of each picture's files; pictures of the same name get different stems."""
    taken: set[str] = set()
    return [unused_stem(path, taken) for path in paths]


def unused_stem(path: Path, taken: set[str]) -> str:
    """A stem for the files of `path` that is not in `taken`; the stem is added to `taken`."""
    stem, number = path.stem, 2
    while stem in taken:
        stem, number = f"{path.stem}_{number}", number + 1
    taken.add(stem)
    return stem
