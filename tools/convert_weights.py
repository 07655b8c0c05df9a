#!/usr/bin/env python3
"""Weights with other people's names, as a checkpoint that a config of ours starts from.

    python tools/convert_weights.py --from deit --weights deit_tiny_patch16_224.pth \
        --config-file configs/dense_t.yaml --output weights/deit_tiny.pth

--from deit          DeiT in timm's names: the trunk; final norm and head are left out, and so is
                     the class token unless --class-token asks for it
--from vit-adapter   a dense ViT-Adapter of mmdetection, backbone or whole detector: the backbone
--from svit          the original SViT, backbone or whole detector: the backbone with its gates
--from evo-vit       the SViT authors' dense Evo-ViT, the same: the backbone with its class token
--from trunk         a model trained here, under any pyramid: its trunk, without the policy

Image classifiers, whose --config-file is one of configs/imagenet, take --classifier besides:

    python tools/convert_weights.py --classifier --from svit --weights svit_s.pth \
        --config-file configs/imagenet/svit_s.yaml --output weights/svit_s.pth

--from deit, svit, evit, ats, evo-vit, dynamic-vit or a-vit: the released classifier of that method,
DeiT as timm names it. --reverse goes the other way: from weights of ours to the released names.

Every weight of the file must be known and every weight of the target found: nothing is half loaded.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import sys
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from svit_det.cli.convert_classifier import convert_classifier
from svit_det.errors import InputError
from svit_det.vit import find_token_net
from svit_det.weights.classifiers import CLASSIFIERS
from svit_det.weights.convert import KINDS, convert_weights
from svit_det.weights.files import read_checkpoint, write_weights

ORIGINAL_SVIT_EPS = 1e-5


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = list(dict.fromkeys([*KINDS, *CLASSIFIERS]))
    parser.add_argument("--from", dest="kind", choices=kinds, required=True, help="see above")
    parser.add_argument("--weights", required=True, help=".pth or .safetensors to read")
    parser.add_argument("--config-file", required=True, help="the model that will load the result")
    parser.add_argument("--output", required=True, help=".pth or .safetensors to write")
    parser.add_argument(
        "--class-token", action="store_true", help="with deit: take its class token too"
    )
    parser.add_argument("--classifier", action="store_true", help="of an image classifier")
    parser.add_argument(
        "--reverse", action="store_true", help="with --classifier: to the released names"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser.parse_args()


def build_detector(args: argparse.Namespace) -> tuple[CfgNode, nn.Module]:
    """The config and the detector of --config-file, on the CPU."""
    # Here, so that classifiers need no detectron2.
    from detectron2.modeling import build_model

    from svit_det.detection import load_config

    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    if args.kind == "svit" and cfg.MODEL.TOKEN_POLICY.NAME != "SViT":
        raise InputError("--from svit: the policy of --config-file must be SViT.")
    return cfg, build_model(cfg)


def main(args: argparse.Namespace) -> None:
    """Read, rename, check against the model, write."""
    output = Path(args.output)
    if output.suffix not in (".pth", ".safetensors"):
        raise InputError(f"--output {output}: name a .pth or a .safetensors file.")
    if not Path(args.weights).is_file():
        raise InputError(f"--weights {args.weights}: no such file.")
    if args.classifier:
        print(convert_classifier(args))
        return
    if args.reverse:
        raise InputError("--reverse goes with --classifier only.")
    if args.kind not in KINDS:
        raise InputError(f"--from {args.kind} goes with --classifier only.")
    if args.class_token and args.kind != "deit":
        raise InputError("--class-token goes with --from deit only.")
    cfg, model = build_detector(args)
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


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except InputError as problem:
        sys.exit(f"convert_weights.py: {problem}")
