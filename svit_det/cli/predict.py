"""Detections of pictures, folders, patterns, films and cameras: pictures, COCO json and a table.

    svit-det predict --weights FILE PICTURE ... [--output DIR] [KEY VALUE ...]
    svit-det predict --weights FILE --camera 0 --frames 100

Writes to the output folder each picture with its detections and the heat map of blocks per token,
coco.json with the boxes and masks of all pictures, and results.json with the number of detections,
the time and the kept shares of each picture. Files that are not there are refused before the model
is built, and so are pictures that the run would replace. A picture or film that cannot be read is
named and counted, and the run goes on with the others. A run that has to stop writes the results of
what it has done.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from svit_det.cli.numbers import COUNT, LONG, SHARE, Real, Whole
from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_device,
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
from svit_det.detection.pictures import write_overview
from svit_det.detection.prediction import Prediction, coco_json
from svit_det.detection.predictor import Predictor, Unread
from svit_det.errors import InputError, printable, renamed_settings
from svit_det.images import find_sources, is_film
from svit_det.results import write_json

COCO, RESULTS = "coco.json", "results.json"
CAMERAS = "[0, 99]"
"""Numbers of cameras; OpenCV takes larger ones for other interfaces."""


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
    add_min_score(parser, "is written")
    share = "mean share of tokens; default: as trained"
    add("--budget", action=Real, interval=SHARE, help=share)
    add("--follow", action="store_true", help="let thresholds follow the pictures before")
    together = "pictures that run together"
    add("--batch", action=Whole, interval=COUNT, default=1, help=together)
    camera = "take pictures from this camera"
    add("--camera", action=Whole, interval=CAMERAS, metavar="NUMBER", help=camera)
    frames = "stop after so many pictures or frames"
    add("--frames", action=Whole, interval=LONG, metavar="COUNT", help=frames)
    add("--no-pictures", action="store_true", help="write coco.json and results.json alone")
    parser.set_defaults(output="output/predictions")
    return parser


@dataclass
class Done:
    """What a run has done so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The entries of results.json, one for each picture."""
    parts: list[dict[str, Any]] = field(default_factory=list)
    """The same pictures' parts of coco.json."""
    unread: list[Unread] = field(default_factory=list)
    stopped: InputError | None = None
    """Why the run could not go on."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every picture and write the results."""
    named, options = pictures_of(args)
    check_arguments(args, named)
    check_output(args.output, [COCO, RESULTS], overwrite=args.overwrite)
    files = find_sources(named)
    pictures = [path for path in files if not is_film(path)]
    stems = Stems(pictures)
    read = [*files, *files_read(args)]
    folder = OutputFolder.apart_from(read, args.output, overwrite=args.overwrite)
    drawn = [] if args.no_pictures else [f"{stems.of(path)}.jpg" for path in pictures]
    folder.check([COCO, RESULTS, *drawn])
    predictor = predictor_of(args, options)
    sources: list[str | int] = [*files, *([] if args.camera is None else [args.camera])]
    done = Done()
    found = begun(islice(predictor.stream(sources, unread=done.unread), args.frames))
    try:
        for prediction in tqdm(found, desc="images", unit="image", total=args.frames, delay=1):
            row = row_of(prediction, args.min_score)
            if not args.no_pictures:
                row["picture"] = f"{stems.of(prediction.name)}.jpg"
                draw(prediction, folder, row["picture"], args.min_score, predictor.class_names)
            done.rows.append(row)
            # Masks are kept as RLE: the pixels of a long film's pictures would fill the memory.
            done.parts.append(without_pixels(prediction, predictor, args.min_score))
    except InputError as problem:
        if not done.rows:
            raise
        done.stopped = problem  # the results of the pictures before it are written all the same
    return finish(done, predictor, args)


def draw(
    prediction: Prediction,
    folder: OutputFolder,
    name: str,
    min_score: float,
    class_names: Sequence[str] | None,
) -> None:
    """Write the picture, unless it would replace what it must not replace."""
    folder.check([name])
    write_overview(prediction, folder.path / name, min_score=min_score, class_names=class_names)


def finish(done: Done, predictor: Predictor, args: argparse.Namespace) -> dict[str, Any]:
    """Write the results and print the table. Raises InputError for a run that was stopped."""
    if not done.rows and done.unread:
        raise none_usable([each.reason for each in done.unread])
    output = Path(args.output)
    content = {
        "pictures": done.rows,
        "unread": [{"name": each.name, "reason": each.reason} for each in done.unread],
        "stopped": None if done.stopped is None else str(done.stopped),
        "min_score": args.min_score,
        "budget": args.budget,
    }
    write_json(output / COCO, merged_coco(done.parts, predictor))
    write_json(output / RESULTS, content)
    say(done.rows, done.unread, output)
    if done.stopped is not None:
        raise done.stopped
    return {"output": str(output), **content}


def check_arguments(args: argparse.Namespace, named: Sequence[str]) -> None:
    """Refuse options that cannot work, before pictures are looked for."""
    if not named and args.camera is None:
        raise InputError("No picture is named: give files, folders, patterns, films or --camera.")
    if args.camera is not None and args.frames is None:
        raise InputError("--camera goes on without end: say when to stop with --frames.")


def predictor_of(args: argparse.Namespace, options: Sequence[str]) -> Predictor:
    """The model of the command line."""
    device = [] if args.device is None else ["MODEL.DEVICE", args.device]
    with renamed_settings(lambda name: f"--{name}" if name == "budget" else name):
        return Predictor(
            args.weights,
            cfg=args.config_file,
            options=[*device, *options],
            budget=args.budget,
            batch_size=args.batch,
            allow_untrained=args.allow_untrained,
            follow=args.follow,
        )


def begun(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """The predictions, the first already made, so that a refusal comes before the progress bar."""
    return chain(list(islice(predictions, 1)), predictions)


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


def without_pixels(
    prediction: Prediction, predictor: Predictor, min_score: float
) -> dict[str, Any]:
    """A picture's part of coco.json, numbered from 1."""
    return coco_json(
        [prediction], num_classes=num_classes(predictor.cfg.MODEL), min_score=min_score
    )


def merged_coco(parts: list[dict[str, Any]], predictor: Predictor) -> dict[str, Any]:
    """One COCO file of all pictures' parts; images and annotations get consecutive numbers."""
    whole = coco_json(
        [],
        class_names=predictor.class_names,
        num_classes=num_classes(predictor.cfg.MODEL),
        category_ids=predictor.category_ids,
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
        [
            printable(row["name"]),
            row["found"],
            100 * row["kept_share"],
            row["trunk_gmacs"],
            row["seconds"],
        ]
        for row in rows
    ]
    headers = ["picture", "found", "tokens kept, %", "trunk GMACs", "seconds"]
    print(tabulate(table, headers=headers, floatfmt=("", "d", ".0f", ".2f", ".3f")))
    say_unread([each.reason for each in unread], len(unread) + len(rows))
    print(f"{COCO} and {RESULTS} are in {output}")
