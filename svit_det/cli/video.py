"""A film with the detections beside the heat map, and the usage over time below both.

    svit-det video --weights FILE --output out.mp4 FILM [KEY VALUE ...]

The film is H.264 in an mp4, which browsers play. An interrupted run leaves a film of the frames so
far, in NAME.partial.mp4 where an older film has the name. The config comes with the weights, or the
weights with the config that names them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from svit_det.cli.captions import model_words
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import LONG, Whole
from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_min_score,
    add_output,
    add_overrides,
    add_overwrite,
    add_weights,
)
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import read_trained
from svit_det.detection.usage_picture import usage_picture
from svit_det.video.frame import PANEL, FilmFrames, film_scale
from svit_det.video.reader import Film
from svit_det.video.writer import check_partial, encoder_path, film_to, partial_path
from svit_det.visualization import UsagePicture, UsageScale

PANELS = "[160, 960]"
"""Pixels for --panel."""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("film", metavar="FILM", help="the film that is read")
    add_weights(parser, "trained weights; default: the ones that --config-file names")
    add_config_file(parser, "of the model; default: what the weights carry")
    add_output(parser, "the film that is made, .mp4", required=True, type=Path)
    every = "1: every frame; 5: every fifth; the speed stays"
    add("--every", action=Whole, interval=LONG, default=1, help=every)
    frames = "stop after so many frames"
    add("--frames", action=Whole, interval=LONG, metavar="COUNT", help=frames)
    side = "pixels of a picture's longer side; %(default)s"
    add("--panel", action=Whole, interval=PANELS, default=PANEL, help=side)
    add_min_score(parser, "is drawn")
    add("--full-scale", action="store_true", help="colours from 0 to all blocks")
    add_overwrite(parser)
    add_allow_untrained(parser)
    add_overrides(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Make the film; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options, run every frame, write the film; returns times and kept shares."""
    check_arguments(args)
    film = Film.open(args.film)
    trained = read_trained(args.weights, args.opts, config_file=args.config_file)
    predictor = TokenPredictor(trained.cfg, allow_untrained=args.allow_untrained)
    fps = film.fps / args.every
    total = None if film.frames is None else -(-film.frames // args.every)
    if args.frames is not None:
        total = min(args.frames, total or args.frames)
    seconds: list[float] = []
    shares: list[float] = []
    started = time.perf_counter()

    def pictures() -> Iterator[UsagePicture]:
        frames = islice(film.read(every=args.every), args.frames)
        for frame in tqdm(frames, total=total, desc=film.path.name, unit="frame"):
            before = time.perf_counter()
            prediction = predictor.run(frame)
            seconds.append(time.perf_counter() - before)
            shares.append(float(prediction.usage.mean()))
            yield usage_picture(
                prediction, min_score=args.min_score, class_names=trained.class_names
            )

    stream = pictures()
    first = next(stream)
    frames = FilmFrames(
        image_size=film.size,
        total=total,
        fps=fps,
        scale=UsageScale.full(first.layers) if args.full_scale else film_scale(first),
        caption=model_words(trained.cfg),
        panel=args.panel,
    )
    encoded = film_to(args.output, size=frames.size, fps=fps, overwrite=args.overwrite)
    with encoded as writer:
        writer.add(frames.draw(first))
        for picture in stream:
            writer.add(frames.draw(picture))
        took = time.perf_counter() - started
    tell(args.output, writer.frames, took, seconds, shares)
    return {
        "film": str(args.output),
        "frames": writer.frames,
        "seconds": took,
        "model_seconds": sum(seconds),
        "kept_share_per_frame": shares[: writer.frames],
    }


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before a model is built."""
    check_output_file(args.output, suffixes=(".mp4",), overwrite=args.overwrite)
    refuse_input(args.output, files_read(args), also=[partial_path(args.output)])
    check_partial(args.output, overwrite=args.overwrite)
    encoder_path()


def tell(
    output: Path, frames: int, took: float, seconds: Sequence[float], shares: Sequence[float]
) -> None:
    """Print the file, its number of frames, and the speed."""
    alone = 1 / np.mean(seconds)
    print(
        f"{output}: {frames} frames in {took:.1f} s, {frames / took:.2f} frames per second "
        f"({alone:.2f} for the model alone); {100 * np.mean(shares):.0f} % of all block runs."
    )
