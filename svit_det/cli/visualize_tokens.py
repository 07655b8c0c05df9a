"""Draw the detections of a trained detector, and the tokens that its blocks kept.

    svit-det visualize --weights FILE --output DIR PICTURE_OR_FOLDER ... [KEY VALUE ...]

For each picture the command writes the detections beside the heat map of blocks per token, and the
keep map of each block that decides; token_usage.json holds the kept share per picture and block.
With --annotations FILE.json the ground truth stands beside the detections. With
MODEL.TOKEN_POLICY.NAME AttentionProbe the command also draws the class token's attention in each
block, and refuses weights without a class token. The config comes with the weights, or the weights
with the config that names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_min_score,
    add_output,
    add_overwrite,
    add_pictures,
    add_weights,
    pictures_of,
)
from svit_det.cli.output import OutputFolder, check_output, files_read
from svit_det.cli.stems import Stems
from svit_det.cli.unread import none_usable, say_unread
from svit_det.detection.datasets import num_classes
from svit_det.detection.pictures import names_of, write_pictures
from svit_det.detection.prediction import Prediction
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import read_trained, refuse_random_attention
from svit_det.detection.usage_picture import Annotations
from svit_det.errors import InputError, printable
from svit_det.images import find_images
from svit_det.policies import POLICY_REGISTRY
from svit_det.results import write_json

USAGE = "token_usage.json"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_pictures(parser)
    add_weights(parser, "trained weights; default: the ones that --config-file names")
    add_config_file(parser, "of the model; default: what the weights carry")
    add_output(parser, "folder for the pictures", required=True)
    add_min_score(parser, "is drawn")
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
    check_output(args.output, (), overwrite=args.overwrite)
    paths = find_images(pictures)
    stems = Stems(paths)
    read = [*paths, *files_read(args)]
    folder = OutputFolder.apart_from(read, args.output, overwrite=args.overwrite)
    suffix = f".{args.format}"
    folder.check([USAGE, *(name for path in paths for name in names_of(stems.of(path), suffix))])
    annotations = Annotations(args.annotations) if args.annotations else None
    trained = read_trained(args.weights, options, config_file=args.config_file)
    if POLICY_REGISTRY.get(trained.cfg.MODEL.TOKEN_POLICY.NAME).shows_attention:
        refuse_random_attention(trained.cfg)
    class_names = names_among(trained.class_names, annotations, trained.cfg)
    predictor = TokenPredictor(trained.cfg, allow_untrained=args.allow_untrained)
    done = Done()
    try:
        for path in tqdm(paths, desc="images", unit="image"):
            try:
                prediction = predictor(path)
                size = prediction.image.shape[:2]
                truth = annotations.of(path, size) if annotations else None
            except InputError as error:
                done.unread.append(str(error))
                continue
            write_pictures(
                prediction,
                folder.path,
                stems.of(path),
                min_score=args.min_score,
                class_names=class_names,
                annotated=truth,
                full_scale=args.full_scale,
                suffix=suffix,
                check=folder.check,
            )
            done.add(path, prediction, stems.of(path), args.min_score)
    except InputError as problem:
        if not done.rows:
            raise
        done.stopped = problem  # the numbers of the pictures before it are written all the same
    return finish(done, folder.path, len(paths))


@dataclass
class Done:
    """What a run has done so far."""

    usage: dict[str, Any] = field(default_factory=dict)
    """The content of token_usage.json."""
    rows: list[list[Any]] = field(default_factory=list)
    """The lines of the table."""
    unread: list[str] = field(default_factory=list)
    """Why pictures could not be used."""
    stopped: InputError | None = None
    """Why the run could not go on."""

    def add(self, path: Path, prediction: Prediction, stem: str, min_score: float) -> None:
        """Add the numbers of a picture that was drawn."""
        shares = prediction.kept_shares
        self.usage[str(path)] = {"kept_share_per_block": shares.tolist(), "pictures": stem}
        found = len(prediction.found(min_score))
        self.rows.append([printable(path.name), found, 100 * shares.mean(), *(100 * shares)])


def finish(done: Done, output: Path, total: int) -> dict[str, Any]:
    """Write the numbers and print the table. Raises InputError for a run that was stopped."""
    if not done.rows:
        raise none_usable(done.unread)
    blocks = range(len(done.rows[0]) - 3)
    print("Tokens kept in percent, per block:")
    headers = ["image", "found", "mean", *map(str, blocks)]
    print(tabulate(done.rows, headers=headers, floatfmt=".0f"))
    write_json(output / USAGE, done.usage)
    say_unread(done.unread, total)
    print(f"Pictures and {USAGE} are in {output}")
    if done.stopped is not None:
        raise done.stopped
    return {"output": str(output), "pictures": done.usage, "unread": done.unread}


def names_among(
    own: Sequence[str] | None, annotations: Annotations | None, cfg: CfgNode
) -> Sequence[str] | None:
    """The model's class names; else the annotations' names, where the number of classes fits."""
    if own is None and annotations and len(annotations.names) == num_classes(cfg.MODEL):
        return annotations.names
    return own
