"""The figures of SViT's supplementary on your pictures: attention (2), reuse (3), usage (4).

    python tools/figures.py 4 --config-file C --weights W --input IMAGES ... --output figure4.png
    python tools/figures.py 3 --config-file A B --weights WA WB --input IMAGE --output figure3.png
    python tools/figures.py 2 --config-file C --weights W --input IMAGE --output figure2.png

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
from svit_det.cli.outputs import check_output
from svit_det.detection import load_config
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.usage_picture import usage_picture
from svit_det.errors import InputError
from svit_det.images import find_images
from svit_det.policies import POLICY_REGISTRY
from svit_det.visualization import UsagePicture, write_image
from svit_det.visualization.figures import attention_figure, reuse_figure, usage_figure
from svit_det.weights.files import read_checkpoint

UNDER_PROBE = (
    *("MODEL.TOKEN_POLICY.NAME", "AttentionProbe"),
    # It has no schedule, and refuses one.
    *("MODEL.TOKEN_POLICY.LAYERS", "[]", "MODEL.TOKEN_POLICY.KEEP_RATIOS", "[]"),
)
CLASS_TOKEN = "cls_token"
MAX_PICTURES = 12
MAX_MODELS = 4
SUFFIXES = (".png", ".jpg", ".jpeg")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("figure", choices=("2", "3", "4"), help="attention, reuse, usage")
    add("--config-file", required=True, nargs="+", help="yaml of the model; figure 3: of several")
    add("--weights", required=True, nargs="+", help=".safetensors or .pth, one for each config")
    add("--input", required=True, nargs="+", help="image files or folders; 2 and 3: one image")
    add("--output", required=True, type=Path, help="the figure, .png or .jpg")
    add("--min-score", type=float, default=0.5, help="of a detection that counts")
    add("--overwrite", action="store_true", help="replace a figure that is there")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides, for all")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Draw the figure; returns what is wrong."""
    try:
        run(build_parser().parse_args(argv))
    except InputError as problem:
        return str(problem)
    return None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check, run every model on every picture, draw."""
    paths = check_arguments(args)
    configs = [
        config_of(args, path, weights)
        for path, weights in zip(args.config_file, args.weights, strict=True)
    ]
    pictures: list[list[UsagePicture]] = []
    for cfg in configs:
        predictor = TokenPredictor(cfg)
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
    """The figure, by its number."""
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


def config_of(args: argparse.Namespace, path: str, weights: str) -> CfgNode:
    """The model's config; for figure 2 under AttentionProbe, if it shows no attention itself."""
    cfg = load_config(path, args.opts)
    if args.figure == "2":
        policy = POLICY_REGISTRY.get(cfg.MODEL.TOKEN_POLICY.NAME)
        if not policy.shows_attention:
            cfg = load_config(path, [*args.opts, *UNDER_PROBE])
        if not any(name.endswith(CLASS_TOKEN) for name in read_checkpoint(weights)["model"]):
            raise InputError(
                f"--weights {weights}: has no class token, whose attention figure 2 shows; train "
                "a policy that has one, or convert weights with theirs."
            )
    cfg.MODEL.WEIGHTS = weights
    return cfg


def check_arguments(args: argparse.Namespace) -> list[Path]:
    """Refuse what cannot work before a model is built; the pictures."""
    models, most = len(args.config_file), MAX_MODELS if args.figure == "3" else 1
    if models > most:
        raise InputError(f"--config-file: {models} models; figure {args.figure} takes {most}.")
    if len(args.weights) != models:
        raise InputError(f"--weights: {len(args.weights)} given for {models} config files.")
    check_output(args.output, suffixes=SUFFIXES, overwrite=args.overwrite)
    paths = find_images(args.input)
    most = MAX_PICTURES if args.figure == "4" else 1
    if len(paths) > most:
        raise InputError(f"--input: {len(paths)} images; figure {args.figure} takes {most}.")
    return paths
