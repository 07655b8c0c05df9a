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

Every weight of the file must be known and every weight of the target found: nothing is half loaded.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from svit_det.detection import load_config
from svit_det.detection.backbone import TokenBackbone, find_token_backbone
from svit_det.detection.checkpoint import read_checkpoint
from svit_det.errors import InputError
from svit_det.policies import SViT
from svit_det.policies.wrappers import PolicyWrapper
from svit_det.vit.position import resize_pos_embed
from svit_det.weights.deit import from_deit
from svit_det.weights.files import write_weights
from svit_det.weights.mmdet import evo_vit_table, from_mmdet, svit_table, vit_adapter_table

KINDS = ("deit", "vit-adapter", "svit", "evo-vit", "trunk")
ORIGINAL_SVIT_EPS = 1e-5


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="kind", choices=KINDS, required=True, help="see above")
    parser.add_argument("--weights", required=True, help=".pth or .safetensors to read")
    parser.add_argument("--config-file", required=True, help="the model that will load the result")
    parser.add_argument("--output", required=True, help=".pth or .safetensors to write")
    parser.add_argument(
        "--class-token", action="store_true", help="with deit: take its class token too"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Read, rename, check against the model, write."""
    output = Path(args.output)
    if output.suffix not in (".pth", ".safetensors"):
        raise InputError(f"--output {output}: name a .pth or a .safetensors file.")
    if not Path(args.weights).is_file():
        raise InputError(f"--weights {args.weights}: no such file.")
    if args.class_token and args.kind != "deit":
        raise InputError("--class-token goes with --from deit only.")
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    backbone = find_token_backbone(model)
    prefix = next(name for name, module in model.named_modules() if module is backbone.net)
    given = read_checkpoint(args.weights)["model"]
    target = {name: value.cpu() for name, value in backbone.net.state_dict().items()}
    if args.kind == "deit":
        renamed = convert_deit(given, cfg, class_token=args.class_token, source=args.weights)
    elif args.kind == "trunk":
        renamed = convert_trunk(given)
    else:
        renamed = convert_adapter(args.kind, given, cfg, backbone, source=args.weights)
    wanted = [name for name in target if is_wanted(name, args.kind, args.class_token)]
    check_complete(renamed, target, wanted, source=args.weights)
    write_weights({f"{prefix}.{name}": renamed[name].contiguous() for name in wanted}, output)
    total = sum(renamed[name].numel() for name in wanted)
    print(f"{len(wanted)} weights, {total:,} numbers of {prefix}: {output}")
    left = len(target) - len(wanted)
    if left:
        print(f"{left} weights of that backbone are not in such a file and start as initialised.")
    if args.kind == "svit":
        print("The file has no thresholds: until training tracks them, mode threshold is argmax.")
        if cfg.MODEL.VIT.LAYER_NORM_EPS != ORIGINAL_SVIT_EPS:
            print("The original's blocks normalise with 1e-5: set MODEL.VIT.LAYER_NORM_EPS 1e-5.")


def convert_deit(
    given: dict[str, Tensor], cfg: CfgNode, *, class_token: bool, source: str
) -> dict[str, Tensor]:
    """DeiT under our names, its positions resized to the config's grid."""
    renamed, side = from_deit(given, source=source, class_token=class_token)
    positions = renamed["trunk.pos_embed"]
    grid = tuple(cfg.MODEL.VIT.PRETRAIN_GRID)
    patches = resize_pos_embed(positions[:, 1:], (side, side), grid)
    renamed["trunk.pos_embed"] = torch.cat([positions[:, :1], patches], dim=1)
    return renamed


def convert_trunk(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model of ours has under `trunk`."""
    inside = {name.partition(".trunk.")[2]: value for name, value in given.items()}
    trunk = {f"trunk.{name}": value for name, value in inside.items() if name}
    return {name: value for name, value in trunk.items() if is_wanted(name, "trunk")}


def convert_adapter(
    kind: str, given: dict[str, Tensor], cfg: CfgNode, backbone: TokenBackbone, *, source: str
) -> dict[str, Tensor]:
    """A backbone of mmdetection under our names."""
    adapter = cfg.MODEL.ADAPTER
    size = {
        "num_interactions": len(adapter.INTERACTIONS),
        "num_extra": adapter.NUM_EXTRA_EXTRACTORS,
    }
    if kind == "vit-adapter":
        return from_mmdet(given, vit_adapter_table(**size), source=source)
    if kind == "evo-vit":
        return from_mmdet(given, evo_vit_table(**size), source=source)
    policy = backbone.policy
    while isinstance(policy, PolicyWrapper):
        policy = policy.policy
    if not isinstance(policy, SViT):
        raise InputError("--from svit: the policy of --config-file must be SViT.")
    renamed = from_mmdet(given, svit_table(**size, layers=policy.layers), source=source)
    weights = backbone.net.state_dict()
    fresh = {name: weights[name].cpu() for name in weights if ".policy.budget." in name}
    return {**fresh, **renamed}


def is_wanted(name: str, kind: str, class_token: bool = False) -> bool:
    """The weight of our network is one that such a file brings."""
    if kind in ("svit", "evo-vit"):
        return True
    if name == "trunk.cls_token":
        return class_token
    return ".policy." not in name and (kind == "vit-adapter" or name.startswith("trunk."))


def check_complete(
    renamed: dict[str, Tensor], target: dict[str, Tensor], wanted: list[str], *, source: str
) -> None:
    """Refuse a file that has too little, too much, or other shapes."""
    problems = {
        "is not in the file": [name for name in wanted if name not in renamed],
        "is not in the model of --config-file": [name for name in renamed if name not in target],
        "has another shape in the model of --config-file": [
            name for name in wanted if name in renamed and renamed[name].shape != target[name].shape
        ],
    }
    for problem, names in problems.items():
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{source}: {names[0]}{more} {problem}.")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except InputError as problem:
        sys.exit(f"convert_weights.py: {problem}")
