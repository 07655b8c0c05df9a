"""The figures of SViT's supplementary on your pictures: attention (2), reuse (3), usage (4).

    svit-det figures --figure 4 --weights W --output figure4.png PICTURES ...
    svit-det figures --figure 3 --weights WA WB --output figure3.png PICTURE
    svit-det figures --figure 2 --weights W --output figure2.png PICTURE

Figure 2 runs the model under AttentionProbe and needs weights with a class token. The line at the
bottom of each figure says which weights it shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from svit_det.cli.captions import model_words
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
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.cli.report import num_models, read_models
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import Trained, read_trained, refuse_random_attention
from svit_det.detection.usage_picture import usage_picture
from svit_det.errors import InputError
from svit_det.images import find_images
from svit_det.policies import POLICY_REGISTRY
from svit_det.visualization import UsagePicture, write_image
from svit_det.visualization.figures import attention_figure, reuse_figure, usage_figure

UNDER_PROBE = (
    *("MODEL.TOKEN_POLICY.NAME", "AttentionProbe"),
    # This policy has no schedule, and refuses one.
    *("MODEL.TOKEN_POLICY.LAYERS", "[]", "MODEL.TOKEN_POLICY.KEEP_RATIOS", "[]"),
)
MAX_PICTURES = 12
MAX_MODELS = 4
SUFFIXES = (".png", ".jpg", ".jpeg")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    which = "2: attention of the class token; 3: reuse of tokens; 4: usage"
    parser.add_argument("--figure", choices=("2", "3", "4"), required=True, help=which)
    add_pictures(parser)
    add_weights(parser, "trained weights; figure 3: of several models", nargs="+")
    add_config_file(parser, "one for each model; default: what the weights carry", nargs="+")
    add_output(parser, "the figure, .png or .jpg", required=True, type=Path)
    add_min_score(parser, "counts")
    add_overwrite(parser)
    add_allow_untrained(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options, run every model on every picture, and draw the figure."""
    given, options = pictures_of(args)
    paths = check_arguments(args, given)
    models = read_models(args, options)
    configs = [config_of(args, model, options) for model in models]
    pictures: list[list[UsagePicture]] = []
    for cfg in configs:
        predictor = TokenPredictor(cfg, allow_untrained=args.allow_untrained)
        pictures.append(
            [
                usage_picture(
                    predictor(path),
                    min_score=args.min_score,
                    class_names=predictor.class_names,
                    name=path.name,
                )
                for path in tqdm(paths, desc=cfg.MODEL.TOKEN_POLICY.NAME, unit="image")
            ]
        )
    write_image(args.output, draw(args.figure, pictures, configs))
    print(f"{args.output}: figure {args.figure} of {len(paths)} pictures.")
    return {"figure": str(args.output), "pictures": [str(path) for path in paths]}


def draw(
    figure: str, pictures: Sequence[Sequence[UsagePicture]], configs: Sequence[CfgNode]
) -> np.ndarray:
    """Draw the figure of this number."""
    weights = "; ".join(model_words(cfg) for cfg in configs)
    first = pictures[0][0]
    if figure == "2":
        return attention_figure(
            first,
            title="Attention of the class token, mean over heads",
            caption=f"{first.name}. Every block to its own maximum. Shown: {weights}.",
        )
    if figure == "3":
        titles = [cfg.MODEL.TOKEN_POLICY.NAME for cfg in configs]
        return reuse_figure(
            [each[0] for each in pictures], titles, caption=f"{first.name}. Shown: {weights}."
        )
    return usage_figure(
        pictures[0],
        caption="Heat maps: number of blocks that each token went through. Foreground: tokens on "
        f"the objects found; percent of all block runs. Shown: {weights}.",
    )


def config_of(args: argparse.Namespace, model: Trained, options: Sequence[str]) -> CfgNode:
    """The model's config; for figure 2 with AttentionProbe, if its policy shows no attention."""
    cfg, weights = model.cfg, model.cfg.MODEL.WEIGHTS
    if args.figure == "2":
        if not POLICY_REGISTRY.get(cfg.MODEL.TOKEN_POLICY.NAME).shows_attention:
            config = args.config_file[0] if args.config_file else None
            cfg = read_trained(weights, [*options, *UNDER_PROBE], config_file=config).cfg
        refuse_random_attention(cfg)
    return cfg


def check_arguments(args: argparse.Namespace, given: Sequence[str]) -> list[Path]:
    """Refuse options that cannot work, before a model is built; returns the pictures' paths."""
    models, most = num_models(args), MAX_MODELS if args.figure == "3" else 1
    if models < 1:
        raise InputError("Nothing to run: give --weights, or --config-file that names some.")
    if models > most:
        raise InputError(f"--weights: {models} models; figure {args.figure} takes {most}.")
    for name in ("weights", "config_file"):
        several = getattr(args, name)
        if several is not None and len(several) != models:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {len(several)} given for {models} models.")
    if not given:
        raise InputError("No picture is named: give files or folders.")
    check_output_file(args.output, suffixes=SUFFIXES, overwrite=args.overwrite)
    paths = find_images(given)
    refuse_input(args.output, [*paths, *files_read(args)])
    most = MAX_PICTURES if args.figure == "4" else 1
    if len(paths) > most:
        raise InputError(f"{len(paths)} pictures; figure {args.figure} takes {most}.")
    return paths
