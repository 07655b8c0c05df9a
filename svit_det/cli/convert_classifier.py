"""Converts a released classifier's weights into weights of this project, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.thresholds import untracked
from svit_det.classification.weights import describe, load_weights
from svit_det.errors import InputError
from svit_det.shipped import find_config
from svit_det.training.finite import check_finite
from svit_det.weights.classifiers import CLASSIFIERS, from_released, to_released
from svit_det.weights.files import read_checkpoint, write_weights


def convert_classifier(args: argparse.Namespace) -> str:
    """Read --weights, rename, check against the model of --config-file, write --output.

    Our file holds the config, as a trained one does. Returns a sentence about the result, and one
    about thresholds that no training tracked. Raises InputError that names the file and the weight.
    """
    if args.kind not in CLASSIFIERS:
        raise InputError(
            f"--from {args.kind}: no classifier of that kind; choose {', '.join(CLASSIFIERS)}."
        )
    cfg = load_config(find_config(args.config_file), [*args.opts, "MODEL.DEVICE", "cpu"])
    model = build_classifier(cfg)
    said, description = "", None
    if args.reverse:
        load_weights(model, args.weights, for_training=False)
        converted = to_released(args.kind, model, source=args.weights)
    else:
        given = read_checkpoint(args.weights)["model"]
        converted = from_released(args.kind, given, model, source=args.weights)
        check_finite(converted, source=args.weights, model=model.state_dict())
        said, description = untracked(model), describe(cfg)
    write_weights(converted, Path(args.output), description=description)
    total = sum(value.numel() for value in converted.values())
    written = f"{len(converted)} weights, {total:,} numbers: {args.output}"
    return f"{written}\n{args.output}: {said}" if said else written
