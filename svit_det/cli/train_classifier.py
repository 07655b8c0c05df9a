"""Train an image classifier whose blocks skip tokens, or evaluate one.

    svit-det classify --config-file imagenet/svit_s [KEY VALUE ...]
    torchrun --nproc-per-node 4 -m svit_det classify --config-file ...
    svit-det classify --config-file ... --eval-only MODEL.WEIGHTS FILE

Images lie in ImageNet's layout, DATA.ROOT/train/CLASS/ and DATA.ROOT/val/CLASS/. --resume goes on
from OUTPUT_DIR/last.pth; the result is that of an uninterrupted training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.evaluation import Evaluation, evaluate
from svit_det.classification.folder import read_split
from svit_det.classification.load import config_in
from svit_det.classification.loading import val_loader
from svit_det.classification.log import RunLog
from svit_det.classification.processes import Processes, joined
from svit_det.classification.run_files import (
    RESULTS,
    check_folder,
    clear,
    write_config,
)
from svit_det.classification.thresholds import warn_of_untracked
from svit_det.classification.trainer import Trainer
from svit_det.classification.weights import export_weights, load_weights
from svit_det.cli.execution import problem_of
from svit_det.cli.options import add_config_file, add_overrides
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.errors import InputError
from svit_det.files import make_folder
from svit_det.interrupts import let_go, remembering_interrupts
from svit_det.results import replace_results, write_json
from svit_det.shipped import find_config, find_weights
from svit_det.training.lost_loader import GO_ON, lost_loader
from svit_det.training.run_folder import only_training_in, refuse_going_on
from svit_det.weights.files import read_description


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_file(parser, "network, policy and recipe", required=True)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT_DIR/last.pth")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train anew in an OUTPUT_DIR that holds a training, which is removed; or replace the "
        "file of --export",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--export", help="with --eval-only: write the weights in half precision, .safetensors"
    )
    add_overrides(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Train or evaluate; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train or evaluate; the first process returns the results of the evaluation."""
    cfg = load_config(find_config(args.config_file), args.opts)
    cfg.freeze()
    check_options(args, cfg)
    try:
        with remembering_interrupts():
            return _run(cfg, args)
    except KeyboardInterrupt as stop:
        let_go(stop)
        raise type(stop)(*([] if args.eval_only else [GO_ON])) from stop
    except RuntimeError as problem:
        then = "evaluate again" if args.eval_only else GO_ON
        sentence = lost_loader(problem, key="DATA.NUM_WORKERS", then=then)
        if sentence is None:
            raise
        raise InputError(sentence) from problem


def _run(cfg: Any, args: argparse.Namespace) -> dict[str, Any] | None:
    with joined(cfg.MODEL.DEVICE) as (where, device):
        begins = not (args.eval_only or args.resume)
        if where.is_first and not args.eval_only:
            refuse_going_on(cfg.OUTPUT_DIR)
        check_folder(cfg, begins=begins, overwrite=args.overwrite)
        log = RunLog(where)
        found = (_evaluate if args.eval_only else _train)(cfg, args, where, device, log)
        if not where.is_first:
            return None
        result = found.as_dict()
        if args.eval_only:
            replace_results(Path(cfg.OUTPUT_DIR), result, config=cfg.dump())
        print(summary(found, Path(cfg.OUTPUT_DIR)))
        return result


def check_options(args: argparse.Namespace, cfg: Any) -> None:
    """Refuse options that do not go together, and a file of --export that must not be replaced."""
    if args.resume and args.overwrite:
        raise InputError("--resume goes on and --overwrite begins anew: give one of them.")
    if args.resume and args.eval_only:
        raise InputError("--resume goes on with a training: leave it out with --eval-only.")
    if args.export is None:
        if args.overwrite and args.eval_only:
            raise InputError(
                "--overwrite begins a training anew or replaces the file of --export: leave it "
                "out with --eval-only alone, which replaces results.json without it."
            )
        return
    if not args.eval_only:
        raise InputError("--export goes with --eval-only.")
    check_output_file(
        args.export, suffixes=(".safetensors",), overwrite=args.overwrite, option="--export"
    )
    read = [find_weights(cfg.MODEL.WEIGHTS), *files_read(args)]
    refuse_input(args.export, read, option="--export")


def _train(
    cfg: Any, args: argparse.Namespace, where: Processes, device: torch.device, log: RunLog
) -> Evaluation:
    trainer = Trainer(cfg, where, device)
    with ExitStack() as held:
        if where.is_first:
            held.enter_context(only_training_in(make_folder(cfg.OUTPUT_DIR)))
            # Another training may have begun and ended here while this one was built.
            check_folder(cfg, begins=not args.resume, overwrite=args.overwrite)
        if args.resume:
            trainer.resume()
        elif args.overwrite and where.is_first:
            clear(cfg)  # now that the new training has all that it needs
        if where.is_first:
            write_config(cfg)  # now that nothing refuses the run any more
        log.keep_in(Path(cfg.OUTPUT_DIR))
        found = trainer.train()
        if where.is_first:
            write_json(Path(cfg.OUTPUT_DIR) / RESULTS, found.as_dict())
    return found


def _evaluate(
    cfg: Any, args: argparse.Namespace, where: Processes, device: torch.device, log: RunLog
) -> Evaluation:
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; name the trained weights to evaluate.")
    model = build_classifier(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS, for_training=False)
    warn_of_untracked(model, cfg.MODEL.WEIGHTS)
    trained = trained_config(cfg) if args.export else cfg
    images = read_split(cfg.DATA.ROOT, cfg.DATA.VAL, num_classes=cfg.MODEL.NUM_CLASSES)
    if where.is_first:
        make_folder(cfg.OUTPUT_DIR)
    log.keep_in(Path(cfg.OUTPUT_DIR))
    found = evaluate(model.to(device).eval(), val_loader(cfg, images, where), images, where)
    if args.export and where.is_first:
        export_weights(model, Path(args.export), trained, images.classes)
    return found


def trained_config(cfg: Any) -> Any:
    """The config of the training that wrote MODEL.WEIGHTS, with the model that is evaluated.

    It names the weights that the training began from. A file without its config gives `cfg`.
    """
    path = find_weights(cfg.MODEL.WEIGHTS)
    text = read_description(path).get("config")
    if not isinstance(text, str):
        return cfg
    trained = config_in(text, [], source=f"the config in {path}")
    began = trained.MODEL.WEIGHTS
    trained.MODEL = cfg.MODEL.clone()
    trained.defrost()
    trained.MODEL.WEIGHTS = began
    return trained


def summary(found: Evaluation, folder: Path) -> str:
    """The numbers of an evaluation in a few lines."""
    kept = " ".join(f"{count:.0f}" for count in found.tokens_per_block)
    lines = [
        f"{found.images} images, {found.unreadable} more unreadable: "
        f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %",
        f"{found.gmacs:.3f} giga multiply-adds an image (dense {found.dense_gmacs:.3f}), "
        f"{found.images_per_second:.1f} images/s",
        f"Patch tokens that each block kept: {kept}",
        f"All figures: {folder}/results.json",
    ]
    return "\n".join(lines)
