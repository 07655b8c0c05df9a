"""Detections of pictures, folders, patterns, films and cameras: pictures, COCO json and a table.

    svit-det predict --weights FILE PICTURE ... [--output DIR] [KEY VALUE ...]
    svit-det predict --weights FILE --camera 0 --frames 100

Writes to the output folder each picture with its detections and the heat map of blocks per token,
coco.json with the boxes and masks of all pictures, and results.json with the number of detections,
the time and the kept shares of each picture. A picture that cannot be read is named and counted,
and the run goes on with the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_device,
    add_output,
    add_overwrite,
    add_pictures,
    add_weights,
    pictures_of,
)
from svit_det.cli.output import check_output
from svit_det.detection.datasets import num_classes
from svit_det.detection.pictures import write_overview
from svit_det.detection.prediction import Prediction, coco_json
from svit_det.detection.predictor import Predictor, Unread
from svit_det.errors import InputError
from svit_det.results import write_json

COCO, RESULTS = "coco.json", "results.json"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add_pictures(parser)
    add_weights(parser, "trained weights; default: the ones that --config-file names")
    add_config_file(parser, "of the model; default: what the weights carry")
    add_output(parser, "folder for the results; default: output/predictions")
    add_overwrite(parser)
    add_device(parser)
    add_allow_untrained(parser)
    add("--min-score", type=float, default=0.5, help="of a detection; default: %(default)s")
    add("--budget", type=float, help="mean share of tokens; default: as trained")
    add("--follow", action="store_true", help="let thresholds follow the pictures before")
    add("--batch", type=int, default=1, help="pictures that run together")
    add("--camera", type=int, metavar="NUMBER", help="take pictures from this camera")
    add("--frames", type=int, metavar="COUNT", help="stop after so many pictures or frames")
    add("--no-pictures", action="store_true", help="write coco.json and results.json alone")
    parser.set_defaults(output="output/predictions")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every picture and write the results."""
    named, options = pictures_of(args)
    sources: list[str | int] = list(named) if args.camera is None else [*named, args.camera]
    if not sources:
        raise InputError("No picture is named: give files, folders, patterns, films or --camera.")
    if args.camera is not None and args.frames is None:
        raise InputError("--camera goes on without end: say when to stop with --frames.")
    if not 0 <= args.min_score <= 1:
        raise InputError(f"--min-score {args.min_score} must lie in [0, 1].")
    output = Path(args.output)
    check_output(output, [COCO, RESULTS], overwrite=args.overwrite)
    if args.device:
        options = ["MODEL.DEVICE", args.device, *options]
    predictor = Predictor(
        args.weights,
        cfg=args.config_file,
        options=options,
        budget=args.budget,
        batch_size=args.batch,
        allow_untrained=args.allow_untrained,
        follow=args.follow,
    )
    unread: list[Unread] = []
    found = begun(islice(predictor.stream(sources, unread=unread), args.frames))
    kept, rows = [], []
    bar = tqdm(found, desc="images", unit="image", total=args.frames, delay=1)
    for prediction, stem in with_stems(bar):
        row = row_of(prediction, args.min_score)
        if not args.no_pictures:
            path = output / f"{stem}.jpg"
            write_overview(
                prediction, path, min_score=args.min_score, class_names=predictor.class_names
            )
            row["picture"] = path.name
        rows.append(row)
        # Masks are kept as RLE: the pixels of a long film's pictures would fill the memory.
        kept.append(without_pixels(prediction, args.min_score))
    if not rows and unread:
        reason = unread[0].reason
        more = f"None of the {len(unread)} pictures can be used; the first: "
        raise InputError(reason if len(unread) == 1 else more + reason)
    content = {
        "pictures": rows,
        "unread": [{"name": each.name, "reason": each.reason} for each in unread],
        "min_score": args.min_score,
        "budget": args.budget,
    }
    merged = merged_coco(kept, predictor)
    write_json(output / COCO, merged)
    write_json(output / RESULTS, content)
    say(rows, unread, output)
    return {"output": str(output), **content}


def begun(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """The predictions, the first already made, so that a refusal comes before the progress bar."""
    return chain(list(islice(predictions, 1)), predictions)


def with_stems(predictions: Any) -> Iterator[tuple[Prediction, str]]:
    """Each prediction with a stem for its files that no other prediction has."""
    taken: set[str] = set()
    for prediction in predictions:
        name = Path(prediction.name)
        # The suffix of a frame such as "film.mp4#000012" holds the number of the frame.
        stem = (name.name if "#" in name.suffix else name.stem).replace("#", "_")
        unique, number = stem, 2
        while unique in taken:
            unique, number = f"{stem}_{number}", number + 1
        taken.add(unique)
        yield prediction, unique


def row_of(prediction: Prediction, min_score: float) -> dict[str, Any]:
    """The entries of a picture in results.json and the table."""
    spent, dense = prediction.trunk_macs
    return {
        "name": prediction.name,
        "found": len(prediction.found(min_score)),
        "seconds": prediction.seconds,
        "kept_share": float(prediction.kept_shares.mean()),
        "kept_share_per_block": prediction.kept_shares.tolist(),
        "trunk_gmacs": spent / 1e9,
        "dense_trunk_gmacs": dense / 1e9,
    }


def without_pixels(prediction: Prediction, min_score: float) -> dict[str, Any]:
    """A picture's part of coco.json, numbered from 1."""
    return coco_json([prediction], num_classes=0, min_score=min_score)


def merged_coco(parts: list[dict[str, Any]], predictor: Predictor) -> dict[str, Any]:
    """One COCO file of all pictures' parts; images and annotations get consecutive numbers."""
    whole = coco_json(
        [], class_names=predictor.class_names, num_classes=num_classes(predictor.cfg.MODEL)
    )
    for image_id, part in enumerate(parts, start=1):
        whole["images"] += [{**part["images"][0], "id": image_id}]
        for entry in part["annotations"]:
            number = len(whole["annotations"]) + 1
            whole["annotations"].append({**entry, "id": number, "image_id": image_id})
    return whole


def say(rows: list[dict[str, Any]], unread: list[Unread], output: Path) -> None:
    """Print the table, the pictures that could not be used, and where the files are."""
    table = [
        [row["name"], row["found"], 100 * row["kept_share"], row["trunk_gmacs"], row["seconds"]]
        for row in rows
    ]
    headers = ["picture", "found", "tokens kept, %", "trunk GMACs", "seconds"]
    print(tabulate(table, headers=headers, floatfmt=("", "d", ".0f", ".2f", ".3f")))
    if unread:
        print(f"{len(unread)} of {len(unread) + len(rows)} pictures could not be used:")
        for each in unread:
            print(f"  {each.reason}")
    print(f"{COCO} and {RESULTS} are in {output}")
