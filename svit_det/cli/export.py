"""Exports a trained detector to files that run without this package; two formats need no PyTorch.

    svit-det export --weights W --output DIR [--config-file C] [--budget 0.5]

Writes the whole detector, or with --part backbone its maps alone, as torch.export's .pt2, ONNX and
OpenVINO. The outputs of each file include every block's keep map. The config comes from the
checkpoint, where it has one. Each file is compared with the model on other pictures before it is
written. --int8 quantises the ONNX file, --bf16 has OpenVINO compute its file in bfloat16.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from svit_det.cli.execution import problem_of
from svit_det.cli.export_calibration import calibration_pictures
from svit_det.cli.numbers import COUNT, PIXELS, SHARE, Real, Whole
from svit_det.cli.options import add_allow_untrained, add_overwrite
from svit_det.cli.output import check_output, files_read
from svit_det.config.declared import node_of
from svit_det.config.policy import unused_keys
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.trained import Trained, read_trained
from svit_det.errors import InputError, is_text
from svit_det.export.build import (
    PARTS,
    Exported,
    Wanted,
    check_wanted,
    export_files,
    has_fixed_count,
)
from svit_det.export.detector import check_exportable
from svit_det.export.formats import FORMATS, OPSETS
from svit_det.export.running import multiplies_bfloat16
from svit_det.export.runtimes import check_runtimes
from svit_det.files import scratch_folder, write_all_whole
from svit_det.policies import POLICY_REGISTRY
from svit_det.shipped import existing_weights
from svit_det.vit import find_token_net
from svit_det.weights.model_size import in_proportion


def fixed_count_options(policy: str) -> list[str]:
    """Overrides with which the policy keeps the same number of tokens in every picture."""
    config = POLICY_REGISTRY.get(policy).Config
    node = node_of(policy)
    return [
        text
        for key, value in config.fixed_count.items()
        for text in (f"{node}.{key.upper()}", value)
    ]


def has_budget(policy: str) -> bool:
    """Whether the policy has a share of tokens to set. A policy that takes any key uses none."""
    if POLICY_REGISTRY.get(policy).takes_any_key:
        return False
    return "TEST_KEEP_RATIO" not in unused_keys(policy)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--weights", required=True, help=".safetensors or .pth")
    add("--output", required=True, type=Path, help="folder for the files")
    add("--config-file", help="yaml of the model; default: what the checkpoint carries")
    add("--formats", nargs="+", choices=tuple(FORMATS), default=list(FORMATS), help="default: all")
    add("--part", choices=tuple(PARTS), default="detector", help="default: %(default)s")
    share = "a fixed share of tokens, the same number in every image"
    add("--budget", action=Real, interval=SHARE, help=share)
    sides, pixels = ("HEIGHT", "WIDTH"), "pixels of the input"
    add("--size", action=Whole, interval=PIXELS, nargs=2, metavar=sides, help=pixels)
    add("--dynamic-size", action="store_true", help="leave height and width open")
    at_a_time = "pictures at a time; more with --part backbone alone"
    add("--batch", action=Whole, interval=COUNT, default=1, help=at_a_time)
    add("--int8", action="store_true", help="the ONNX file in 8-bit integers")
    add("--calibration", metavar="FOLDER", help="pictures for --int8; default: the training set's")
    add("--bf16", action="store_true", help="the OpenVINO file in bfloat16")
    add("--no-topk", action="store_true", help="for back ends without TopK; --part backbone")
    add("--opset", type=int, choices=OPSETS, default=OPSETS[0], help="default: %(default)s")
    add_overwrite(parser)
    add_allow_untrained(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Export; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options, then build the model, export, compare and write."""
    args.weights = existing_weights(args.weights)
    formats = tuple(name for name in FORMATS if name in args.formats)
    names = [f"{args.part}{e}" for f in formats for e in FORMATS[f]]
    check_output(args.output, names, overwrite=args.overwrite, inputs=files_read(args))
    check_precisions(args, formats)
    check_runtimes(formats)
    trained = trained_of(args)
    cfg = trained.cfg
    model = load_model(cfg, args.weights, allow_untrained=args.allow_untrained)
    size = size_of(args, cfg, model)
    wanted = Wanted(
        part=args.part,
        size=size,
        formats=formats,
        batch=args.batch,
        dynamic_size=args.dynamic_size,
        topk=not args.no_topk,
        opset=args.opset,
        image_format=cfg.INPUT.FORMAT,
        sides=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        bf16=args.bf16,
        said={"train_sets": train_sets_of(trained), "classes": trained.class_names or []},
    )
    check_wanted(wanted, find_token_net(model), model.backbone.size_divisibility)
    check_budget(args.budget, model, wanted)
    if args.int8:
        pictures = calibration_pictures(cfg, args.calibration, size=size, batch=args.batch)
        wanted = replace(wanted, int8=pictures)
    with scratch_folder() as folder:
        exported = export_files(model, wanted, folder)
        publish(folder, args.output, wanted.files())
    report(exported, wanted, args.output)
    return {"output": str(args.output), "files": list(wanted.files()), "about": exported.metadata}


def trained_of(args: argparse.Namespace) -> Trained:
    """The weights, and the yaml's config or their own under --budget and overrides, on the CPU."""

    def read(*options: str) -> Trained:
        named = ["MODEL.DEVICE", "cpu", *options, *args.opts]
        return read_trained(args.weights, named, config_file=args.config_file)

    if args.budget is None:
        return read()
    policy = read().cfg.MODEL.TOKEN_POLICY.NAME
    if not has_budget(policy):
        raise InputError(f"--budget {args.budget}: {policy} has no budget to set.")
    budget = ("MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", str(args.budget))
    return read(*budget, *fixed_count_options(policy))


def train_sets_of(trained: Trained) -> list[str]:
    """The sets that the weights were trained on, by their file, else by the config."""
    said = trained.said.get("train_sets")
    if isinstance(said, list) and all(isinstance(each, str) and is_text(each) for each in said):
        return said
    return list(trained.cfg.DATASETS.TRAIN)


def load_model(cfg: CfgNode, weights: str, *, allow_untrained: bool = False) -> nn.Module:
    """The trained model, for inference. Raises InputError where a part of it has no weights."""
    with in_proportion(weights):
        model = build_model(cfg).eval()
    TokenCheckpointer(model, refuse_untrained=not allow_untrained).load(weights)
    return model


def size_of(args: argparse.Namespace, cfg: CfgNode, model: nn.Module) -> tuple[int, int]:
    """(height, width) of --size; else a square of INPUT.MIN_SIZE_TEST pixels a side, rounded up."""
    if args.size is not None:
        return args.size[0], args.size[1]
    divisor = model.backbone.size_divisibility
    side = max(-(-cfg.INPUT.MIN_SIZE_TEST // divisor), 1) * divisor
    return side, side


def check_budget(budget: float | None, model: nn.Module, wanted: Wanted) -> None:
    """Refuse a model or budget that cannot be exported, before anything is exported."""
    if wanted.part == "detector":
        check_exportable(model)
    net = find_token_net(model)
    policy = net.trunk.policy
    if getattr(policy, "mode", "") == "sample":
        raise InputError(
            f"{type(policy).__name__} in the mode sample draws numbers, which no format draws "
            "alike; choose another mode."
        )
    if budget is not None and not has_fixed_count(net, wanted.size):
        raise InputError(
            f"--budget {budget}: how many tokens {type(policy).__name__} keeps depends on the "
            "image; leave it out, and the exported graph counts by itself."
        )


def check_precisions(args: argparse.Namespace, formats: Sequence[str]) -> None:
    """Refuse a precision or opset without its format; warn of a processor without bfloat16."""
    for option, name in (("int8", "onnx"), ("bf16", "openvino")):
        if getattr(args, option) and name not in formats:
            raise InputError(f"--{option} is for {name}: name it in --formats.")
    if args.opset != OPSETS[0] and not {"onnx", "openvino"} & set(formats):
        raise InputError(
            f"--opset {args.opset} is for onnx and for openvino, which is made of it: name one in "
            "--formats."
        )
    if args.calibration is not None and not args.int8:
        raise InputError(f"--calibration {args.calibration}: belongs to --int8, which is missing.")
    if args.bf16:
        check_runtimes(["openvino"])
        if not multiplies_bfloat16():
            print(
                "--bf16: this processor has no instructions for bfloat16, so that OpenVINO gains "
                "nothing from it here.",
                file=sys.stderr,
            )


def publish(source: Path, output: Path, names: Sequence[str]) -> None:
    """Copy finished files to the output folder: all of them, or none after a failure."""
    with write_all_whole([output / name for name in names]) as partials:
        for name, partial in zip(names, partials, strict=True):
            shutil.copyfile(source / name, partial)


def report(exported: Exported, wanted: Wanted, output: Path) -> None:
    """Print what was made, and how far each file is from the model."""
    about = exported.metadata
    size = "any size" if wanted.dynamic_size else "{} x {} pixels".format(*wanted.size)
    number = f"{wanted.batch} pictures" if wanted.batch > 1 else "one picture"
    print(f"{about['policy']}, {wanted.part}: {number} of {size} at a time.")
    print(f"Tokens kept: {'a fixed number' if about['kept_tokens'] == 'fixed' else 'by image'}.")
    for name, parity in exported.parity.items():
        path = output / f"{wanted.part}{FORMATS[name][-1]}"
        precision = wanted.precision(name)
        print(f"{path}, {precision}: against the model on other pictures, {parity}.")
