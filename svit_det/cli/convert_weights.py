"""Weights with the names of other projects, as a checkpoint that a config of this project loads.

    svit-det convert --from deit --weights deit_tiny_patch16_224.pth \
        --config-file dense_t --output weights/deit_tiny.pth

--from deit          DeiT in timm's names: the trunk; final norm and head are left out, and so is
                     the class token unless --class-token asks for it
--from vit-adapter   a dense ViT-Adapter of mmdetection, backbone or whole detector: the backbone
--from svit          the original SViT, backbone or whole detector: the backbone with its gates
--from evo-vit       the SViT authors' dense Evo-ViT, backbone or whole detector: the backbone with
                     its class token
--from trunk         a model trained here, under any pyramid: its trunk, without the policy

Image classifiers also need --classifier; their --config-file is one of configs/imagenet:

    svit-det convert --classifier --from svit --weights svit_s.pth \
        --config-file imagenet/svit_s --output weights/svit_s.pth

--from deit, svit, evit, ats, evo-vit, dynamic-vit or a-vit: the released classifier of that method,
DeiT in timm's names. --reverse goes the other way: from weights of this project to the released
names.

Every weight of the file must be known, and every weight that the target needs from it must be
there: no model is half loaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from svit_det.cli.convert_classifier import convert_classifier
from svit_det.cli.options import (
    add_config_file,
    add_output,
    add_overrides,
    add_overwrite,
    add_weights,
)
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.errors import InputError
from svit_det.shipped import existing_weights
from svit_det.weights.classifiers import CLASSIFIERS
from svit_det.weights.convert import KINDS


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = list(dict.fromkeys([*KINDS, *CLASSIFIERS]))
    parser.add_argument("--from", dest="kind", choices=kinds, required=True, help="see above")
    add_weights(parser, "what is read", required=True)
    add_config_file(parser, "the model that will load the result", required=True)
    add_output(parser, "the .pth or .safetensors file to write", required=True)
    parser.add_argument(
        "--class-token", action="store_true", help="with deit: take its class token too"
    )
    parser.add_argument("--classifier", action="store_true", help="of an image classifier")
    parser.add_argument(
        "--reverse", action="store_true", help="with --classifier: to the released names"
    )
    add_overwrite(parser)
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read, rename, check against the model, write."""
    output = Path(args.output)
    check_output_file(output, suffixes=(".pth", ".safetensors"), overwrite=args.overwrite)
    refuse_input(output, files_read(args))
    args.weights = existing_weights(args.weights)
    if args.class_token and (args.classifier or args.kind != "deit"):
        raise InputError("--class-token goes with --from deit only, and not with --classifier.")
    if args.classifier:
        said = convert_classifier(args)
        print(said)
        return {"output": str(output), "said": said}
    if args.reverse:
        raise InputError("--reverse goes with --classifier only.")
    if args.kind not in KINDS:
        raise InputError(f"--from {args.kind} goes with --classifier only.")
    from svit_det.cli.convert_detector import convert_detector  # this module needs detectron2

    return convert_detector(args, output)
