"""One HTML page about one or two models on your pictures: detections, heat maps, distributions.

    svit-det report --weights W [W] --output report.html [PICTURE_OR_FOLDER ...] [KEY VALUE ...]

Without PICTURE_OR_FOLDER the pictures and their annotations are those of the config's first test
set. Two models stand side by side. The configs come with the weights, or the weights with the
configs that name them. The page is one file, which loads nothing from any address.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from svit_det import __version__
from svit_det.cli.captions import model_words
from svit_det.cli.numbers import LONG, Whole
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
from svit_det.cli.output import check_output, check_output_file, files_read, refuse_input
from svit_det.cli.report_pictures import Pictures, ShownPictures, find_pictures, name_of
from svit_det.cli.unread import none_usable, say_unread
from svit_det.cli.visualize_tokens import names_among
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import Trained, read_trained
from svit_det.detection.usage_picture import usage_picture
from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.images import spread_out
from svit_det.report.page import render_page
from svit_det.report.statistics import ArmStatistics
from svit_det.results import write_json
from svit_det.visualization import UsagePicture

MAX_SHOWN = 100
"""Most pictures in one page; each takes 0.1 to 0.3 MB."""
MAX_NAMED = 10
"""Most unusable pictures that the page names; the numbers' file names all."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add_pictures(parser)
    add_weights(parser, "trained weights of one model or two", nargs="+")
    add_config_file(parser, "one for each model; default: what the weights carry", nargs="+")
    add_output(parser, "the page; its numbers go to a .json beside it", required=True, type=Path)
    add("--annotations", help="COCO-format json with the pictures' ground truth")
    add("--label", nargs="+", help="what the models are called; default: their files' names")
    add("--title", default="Tokens and detections", help="default: %(default)s")
    shown = "pictures in the page; default: %(default)s"
    add("--shown", action=Whole, interval=f"[1, {MAX_SHOWN}]", default=12, help=shown)
    limit = "count over so many pictures only, evenly over the set"
    add("--limit", action=Whole, interval=LONG, help=limit)
    add_min_score(parser, "counts")
    add_overwrite(parser)
    add_allow_untrained(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options, run every model on every picture, and write the page."""
    check_arguments(args)
    given, options = pictures_of(args)
    models = read_models(args, options)
    pictures = find_pictures(given, args, models[0].cfg)
    read = [*pictures.paths, *pictures.jsons]
    refuse_input(args.output, read, also=[json_path(args.output)])
    labels = labels_of(args)
    shown = ShownPictures(spread_out(pictures.paths, args.shown))
    unread: dict[Path, str] = {}
    arms: list[ArmStatistics] = []
    for label, model in zip(labels, models, strict=True):
        arm = ArmStatistics(label=label, about=f"({model_words(model.cfg)})")
        for path, picture in run_model(label, model, pictures, args, unread):
            shown.offer(path, picture)
            if picture is not None:
                arm.add(picture)
                continue
            for earlier in arms:  # all models count the same pictures
                earlier.drop(name_of(path, pictures.paths))
        if not arm.rows:
            raise none_usable(list(unread.values()))
        arms.append(arm)
    on_page = shown.under(len(arms))
    page = render_page(
        arms,
        on_page,
        title=args.title,
        facts=facts(pictures, len(on_page), args.min_score, unread),
    )
    with write_whole(args.output) as partial:
        # Names from the command line and of files may hold bytes that are no text.
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    numbers = {
        "arms": [arm.as_json() for arm in arms],
        "unread": [{"name": str(path), "reason": reason} for path, reason in unread.items()],
    }
    write_json(json_path(args.output), numbers)
    tell(arms, args.output)
    say_unread(list(unread.values()), len(pictures.paths))
    return numbers


def run_model(
    label: str,
    model: Trained,
    pictures: Pictures,
    args: argparse.Namespace,
    unread: dict[Path, str],
) -> Iterator[tuple[Path, UsagePicture | None]]:
    """Run a model on each picture that is not in `unread`.

    A picture that cannot be used is added to `unread` with the reason, and None stands in its
    place.
    """
    predictor = TokenPredictor(model.cfg, allow_untrained=args.allow_untrained)
    names = names_among(model.class_names, pictures.annotations, model.cfg)
    for path in tqdm(pictures.paths, desc=label, unit="image"):
        if path in unread:
            continue
        try:
            prediction = predictor(path)
            size = prediction.image.shape[:2]
            truth = pictures.annotations.of(path, size) if pictures.annotations else None
        except InputError as error:
            unread[path] = str(error)
            yield path, None
            continue
        yield (
            path,
            usage_picture(
                prediction,
                min_score=args.min_score,
                class_names=names,
                annotated=truth,
                name=name_of(path, pictures.paths),
            ),
        )


def read_models(args: argparse.Namespace, options: Sequence[str]) -> list[Trained]:
    """Every model's config, which names its weights, and what the weights say of themselves."""
    count = num_models(args)
    configs, weights = (
        getattr(args, name) or [None] * count for name in ("config_file", "weights")
    )
    return [
        read_trained(weights_file, options, config_file=config)
        for config, weights_file in zip(configs, weights, strict=True)
    ]


def num_models(args: argparse.Namespace) -> int:
    """The number of models that the command line names."""
    return max(len(args.weights or []), len(args.config_file or []))


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before any model is built."""
    count = num_models(args)
    if not 1 <= count <= 2:
        raise InputError(f"--weights: {count} models; name one, or two to stand side by side.")
    for name in ("weights", "config_file", "label"):
        given = getattr(args, name)
        if given is not None and len(given) != count:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {len(given)} given for {count} models.")
    check_output_file(args.output, suffixes=(".html", ".htm"), overwrite=args.overwrite)
    check_output(args.output.parent, [json_path(args.output).name], overwrite=args.overwrite)
    refuse_input(args.output, files_read(args), also=[json_path(args.output)])


def json_path(output: Path) -> Path:
    """The file of the report's numbers, beside the page."""
    return output.with_suffix(".json")


def labels_of(args: argparse.Namespace) -> list[str]:
    """The names of the models in the report, all different."""
    labels = args.label or [Path(path).stem for path in args.config_file or args.weights]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({number})" for number, label in enumerate(labels, start=1)]
    return labels


def facts(
    pictures: Pictures, shown: int, min_score: float, unread: Mapping[Path, str]
) -> list[str]:
    """Sentences below the title."""
    total = len(pictures.paths) - len(unread)
    every = f"all {total}" if shown == total else f"{shown} of {total}"
    said = [
        f"Numbers are over {total} pictures ({pictures.source}); {every} are shown below.",
        f"A detection counts from a score of {min_score:g} on. Blocks count from 0. "
        f"Made by svit_det {__version__}.",
    ]
    if unread:
        names = [name_of(path, pictures.paths) for path in unread]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        said.insert(
            1,
            f"{len(names)} of {len(pictures.paths)} pictures could not be used: "
            f"{', '.join(names[:MAX_NAMED])}{more}.",
        )
    return said


def tell(arms: Sequence[ArmStatistics], output: Path) -> None:
    """Print the table for people, and where the files are."""
    blocks = range(max(len(arm.shares[1]) for arm in arms))
    rows = [[arm.label, 100 * arm.shares[1].mean(), *(100 * arm.shares[1])] for arm in arms]
    print("Tokens kept in percent, mean of the pictures, per block:")
    print(tabulate(rows, headers=["model", "mean", *map(str, blocks)], floatfmt=".0f"))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; numbers: {json_path(output)}")
