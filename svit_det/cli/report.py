"""One HTML page about one or two models on your pictures: detections, heat maps, distributions.

    python tools/report.py --config-file C --weights W --output report.html [--input IMAGES ...]

Without --input the pictures and annotations are those of the config's first test set. Two config
files with two weights stand side by side. The page is one file that asks no address for anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate
from tqdm import tqdm

from svit_det import __version__
from svit_det.cli.captions import model_words
from svit_det.cli.outputs import check_output
from svit_det.detection import load_config
from svit_det.detection.datasets import num_classes, register_datasets
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.usage_picture import Annotations, usage_picture
from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.images import find_images, spread_out
from svit_det.report.page import Shown, render_page
from svit_det.report.statistics import ArmStatistics
from svit_det.results import write_json

MAX_SHOWN = 100
"""Pictures in one page; each takes 0.1 to 0.3 MB."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the report is about."""

    paths: list[Path]
    annotations: Annotations | None
    source: str


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--config-file", required=True, nargs="+", help="yaml of the model, or of two models")
    add("--weights", required=True, nargs="+", help=".safetensors or .pth, one for each config")
    add("--output", required=True, type=Path, help="the page; its numbers go to a .json beside it")
    add("--input", nargs="+", help="image files or folders; default: the config's test set")
    add("--annotations", help="COCO-format json with the images' ground truth")
    add("--label", nargs="+", help="what the models are called; default: the config files' names")
    add("--title", default="Tokens and detections", help="default: %(default)s")
    add("--shown", type=int, default=12, help="pictures in the page; default: %(default)s")
    add("--limit", type=int, help="count over so many pictures only, evenly over the set")
    add("--min-score", type=float, default=0.5, help="of a detection that counts")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides, for all")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Write the report; returns what is wrong."""
    try:
        run(build_parser().parse_args(argv))
    except InputError as problem:
        return str(problem)
    return None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check, run every model on every picture, write the page; returns its numbers."""
    check_arguments(args)
    configs = []
    for path, weights in zip(args.config_file, args.weights, strict=True):
        cfg = load_config(path, args.opts)
        cfg.MODEL.WEIGHTS = weights
        configs.append(cfg)
    pictures = find_pictures(args, configs[0])
    labels = labels_of(args)
    shown_names = set(spread_out([str(path) for path in pictures.paths], args.shown))
    arms, shown = [], {}
    for label, cfg in zip(labels, configs, strict=True):
        predictor = TokenPredictor(cfg)
        arm = ArmStatistics(label=label, about=f"({model_words(cfg)})")
        names = class_names(predictor, cfg, pictures)
        for path in tqdm(pictures.paths, desc=label, unit="image"):
            picture = usage_picture(
                predictor(path),
                min_score=args.min_score,
                class_names=names,
                annotated=pictures.annotations.of(path) if pictures.annotations else None,
                name=name_of(path, pictures.paths),
            )
            arm.add(picture)
            if str(path) in shown_names:
                shown.setdefault(picture.name, []).append(picture)
        arms.append(arm)
    page = render_page(
        arms,
        [Shown(name=name, pictures=each) for name, each in shown.items()],
        title=args.title,
        facts=facts(pictures, len(shown), args.min_score),
    )
    with write_whole(args.output) as partial:
        partial.write_text(page, encoding="utf-8")
    numbers = {"page": str(args.output), "arms": [arm.as_json() for arm in arms]}
    write_json(json_path(args.output), numbers)
    tell(arms, args.output)
    return numbers


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before any model is built."""
    count = len(args.config_file)
    if count > 2:
        raise InputError(f"--config-file: {count} models; at most two stand side by side.")
    for name in ("weights", "label"):
        given = getattr(args, name)
        if given is not None and len(given) != count:
            raise InputError(f"--{name}: {len(given)} given for {count} config files.")
    if not 1 <= args.shown <= MAX_SHOWN:
        raise InputError(f"--shown {args.shown}: choose from 1 to {MAX_SHOWN} pictures.")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit}: choose at least one picture.")
    check_output(args.output, suffixes=(".html", ".htm"), overwrite=args.overwrite)
    check_output(json_path(args.output), suffixes=(".json",), overwrite=args.overwrite)


def json_path(output: Path) -> Path:
    """Where the numbers go."""
    return output.with_suffix(".json")


def find_pictures(args: argparse.Namespace, cfg: CfgNode) -> Pictures:
    """The given images, or those of the first test set with their annotations."""
    annotations, source = args.annotations, "the given images"
    if args.input:
        paths = find_images(args.input)
    else:
        register_datasets(cfg)
        name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
        metadata = MetadataCatalog.get(name)
        if not hasattr(metadata, "image_root"):
            raise InputError("--input: name images, or a config whose DATASETS.TEST has a set.")
        annotations = annotations or metadata.json_file
        source = f"the set {name}"
        known = Annotations(annotations)
        paths = [Path(metadata.image_root, each) for each in known.file_names]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise InputError(f"{metadata.image_root}: none of the set's images is in this folder.")
    total = len(paths)
    if args.limit is not None and args.limit < total:
        paths = spread_out(paths, args.limit)
        source += f", {len(paths)} of {total}"
    return Pictures(
        paths=paths, annotations=Annotations(annotations) if annotations else None, source=source
    )


def labels_of(args: argparse.Namespace) -> list[str]:
    """What the models are called, no two alike."""
    labels = args.label or [Path(path).stem for path in args.config_file]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({number})" for number, label in enumerate(labels, start=1)]
    return labels


def class_names(
    predictor: TokenPredictor, cfg: CfgNode, pictures: Pictures
) -> Sequence[str] | None:
    """Of the model's set; else of the annotations, where they have as many classes."""
    names: Sequence[str] | None = predictor.class_names
    known = pictures.annotations
    if names is None and known is not None and len(known.names) == num_classes(cfg.MODEL):
        names = known.names
    return names


def name_of(path: Path, paths: Sequence[Path]) -> str:
    """The file's name; with its folder where another picture has the same."""
    same = [other for other in paths if other.name == path.name]
    return path.name if len(same) == 1 else str(path)


def facts(pictures: Pictures, shown: int, min_score: float) -> list[str]:
    """Sentences below the title."""
    total = len(pictures.paths)
    every = f"all {total}" if shown == total else f"{shown} of {total}"
    return [
        f"Numbers are over {total} pictures ({pictures.source}); {every} are shown below.",
        f"A detection counts from a score of {min_score:g} on. Blocks count from 0. "
        f"Made by svit_det {__version__}.",
    ]


def tell(arms: Sequence[ArmStatistics], output: Path) -> None:
    """The table for people, and where to look."""
    blocks = range(max(len(arm.shares[1]) for arm in arms))
    rows = [[arm.label, 100 * arm.shares[1].mean(), *(100 * arm.shares[1])] for arm in arms]
    print("Tokens kept in percent, mean of the pictures, per block:")
    print(tabulate(rows, headers=["model", "mean", *map(str, blocks)], floatfmt=".0f"))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; numbers: {json_path(output)}")
