"""How closely a trained model meets the budgets of TEST_KEEP_RATIO on given pictures.

    svit-det budgets --weights FILE PICTURE_OR_FOLDER ... [--budgets 0.3 0.5 0.7]

For each budget the table shows the share of tokens that the deciding blocks kept, as the mean over
these blocks and the pictures, the difference between that share and the budget, and how much the
pictures differ. With --follow the thresholds follow the pictures before (TokenPolicy.follow), in
the order in which the pictures are run. Runs the backbone alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from svit_det.cli.numbers import SHARE, Real
from svit_det.cli.options import (
    add_allow_untrained,
    add_config_file,
    add_pictures,
    add_weights,
    pictures_of,
)
from svit_det.detection.predictor import TokenPredictor
from svit_det.detection.trained import read_trained
from svit_det.errors import InputError, renamed_settings
from svit_det.images import find_images, read_image
from svit_det.vit import find_token_net, record_passes


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_pictures(parser)
    add_weights(parser, "trained weights; default: the ones that --config-file names")
    add_config_file(parser, "of the model; default: what the weights carry")
    add, default = parser.add_argument, [0.3, 0.5, 0.7]
    shares = "shares of tokens"
    add("--budgets", action=Real, interval=SHARE, nargs="+", default=default, help=shares)
    add("--follow", action="store_true", help="let thresholds follow the pictures before")
    add_allow_untrained(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run every picture at every budget."""
    pictures, options = pictures_of(args)
    if not pictures:
        raise InputError("No picture is named: give files or folders.")
    paths = find_images(pictures)
    trained = read_trained(args.weights, options, config_file=args.config_file)
    predictor = TokenPredictor(trained.cfg, allow_untrained=args.allow_untrained)
    policy = find_token_net(predictor.model).trunk.policy
    rows = []
    for budget in args.budgets:
        with renamed_settings(lambda _: "--budgets"):
            policy.set_keep_ratio(budget)
        policy.forget()
        shares = kept_shares(predictor, paths, follow=args.follow, title=f"budget {budget:g}")
        rows.append(summary(budget, shares))
    print(f"Tokens kept by the deciding blocks, {len(paths)} pictures:")
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    return {"pictures": len(paths), "follow": args.follow, "budgets": rows}


@torch.no_grad()
def kept_shares(
    predictor: TokenPredictor, paths: Sequence[Path], *, follow: bool = False, title: str = ""
) -> np.ndarray:
    """(pictures, deciding blocks) shares of patch tokens that the policy kept."""
    model, net = predictor.model, find_token_net(predictor.model)
    schedule = net.trunk.policy.schedule
    if schedule is None:
        raise InputError(f"{type(net.trunk.policy).__name__} has no blocks that decide by a share.")
    found = []
    for path in tqdm(paths, desc=title, unit="image"):
        image = model.preprocess_image([predictor.model_input(read_image(path, "RGB"))])
        with record_passes(model) as records:
            model.backbone(image.tensor)
        counts = records[-1].counts()[0, list(schedule.layers)]
        found.append((counts.float() / records[-1].grid.num_tokens).cpu().numpy())
        if follow:
            net.trunk.policy.follow(records[-1])
    return np.array(found)


def summary(budget: float, shares: np.ndarray) -> dict[str, Any]:
    """A row of the table, from (pictures, deciding blocks) shares."""
    by_image = shares.mean(axis=1)
    return {
        "budget": budget,
        "kept": float(by_image.mean()),
        "error": float(by_image.mean()) - budget,
        "least": float(by_image.min()),
        "most": float(by_image.max()),
        "deviation": float(by_image.std()),
    }
