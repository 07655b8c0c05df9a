"""Converts weights with the names of other projects into weights that a detector starts from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model

from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.training.finite import check_finite
from svit_det.vit import find_token_net
from svit_det.weights.convert import convert_weights
from svit_det.weights.files import read_checkpoint, write_weights

ORIGINAL_SVIT_EPS = 1e-5


def convert_detector(args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Read --weights, rename, check against the model of --config-file, write `output`."""
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    if args.kind == "svit" and cfg.MODEL.TOKEN_POLICY.NAME != "SViT":
        raise InputError("--from svit: the policy of --config-file must be SViT.")
    model = build_model(cfg)
    net = find_token_net(model)
    prefix = next(name for name, module in model.named_modules() if module is net)
    converted = convert_weights(
        args.kind,
        read_checkpoint(args.weights)["model"],
        net,
        pretrain_grid=tuple(cfg.MODEL.VIT.PRETRAIN_GRID),
        num_interactions=len(cfg.MODEL.ADAPTER.INTERACTIONS),
        num_extra=cfg.MODEL.ADAPTER.NUM_EXTRA_EXTRACTORS,
        class_token=args.class_token,
        source=args.weights,
        target="the model of --config-file",
    )
    check_finite(converted, source=args.weights, model=net.state_dict())
    write_weights({f"{prefix}.{name}": value for name, value in converted.items()}, output)
    total = sum(value.numel() for value in converted.values())
    print(f"{len(converted)} weights, {total:,} numbers of {prefix}: {output}")
    left = len(net.state_dict()) - len(converted)
    if left:
        print(f"{left} weights of that backbone are not in such a file and start as initialised.")
    if args.kind == "svit":
        print("The file has no thresholds: until training tracks them, mode threshold is argmax.")
        if cfg.MODEL.VIT.LAYER_NORM_EPS != ORIGINAL_SVIT_EPS:
            print("The original's blocks normalise with 1e-5: set MODEL.VIT.LAYER_NORM_EPS 1e-5.")
    return {
        "output": str(output),
        "weights": len(converted),
        "numbers": total,
        "as_initialised": left,
    }
