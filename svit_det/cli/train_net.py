"""Train a token-pruned detector, or evaluate one: COCO AP and token usage side by side.

    svit-det train --config-file plain_svit_t [KEY VALUE ...]
    svit-det train --config-file plain_svit_t --eval-only MODEL.WEIGHTS FILE

Most options are detectron2's own. --eval-only without MODEL.WEIGHTS takes the trained weights that
the config names in TEST.WEIGHTS, where the config names some.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode

from svit_det.cli.execution import import_packages
from svit_det.cli.options import add_allow_untrained
from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import epochs_of, prepare_datasets, register_datasets
from svit_det.detection.expected import NotExpected, check_expected
from svit_det.detection.processes import check_processes, run_parser, run_processes
from svit_det.detection.run_files import (
    RESULTS,
    begin_results,
    check_folder,
    check_sets,
    clear_folder,
    start_run,
)
from svit_det.detection.token_usage import check_usage
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError, refuse_url
from svit_det.results import replace_results, write_json
from svit_det.shipped import find_config, find_weights
from svit_det.training.run_folder import only_training_in, refuse_going_on

SKIP_BAD = ("DATASETS.SKIP_BAD", "True")
MANY_EPOCHS = 300
"""A recipe that shows each picture more often than this is meant for a larger set."""


def build_parser() -> argparse.ArgumentParser:
    """detectron2's options, and options of this project."""
    parser = run_parser()
    parser.description = (__doc__ or "").split("\n\n")[0]
    add_allow_untrained(parser)
    parser.add_argument(
        "--skip-bad", action="store_true", help="go on without what the check of a set refuses"
    )
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train or evaluate, in as many processes as asked for; returns the evaluation's results."""
    check_options(args)
    cfg = check_run(args)
    with ExitStack() as held:
        if writes_training(args):
            held.enter_context(only_training_in(cfg.OUTPUT_DIR))
        run_processes(train_or_evaluate, args)
    # The first machine writes; another machine's folder may hold the results of an earlier run.
    results = written_results(cfg) if args.machine_rank == 0 else None
    return {"output": cfg.OUTPUT_DIR, "results": results}


def writes_training(args: argparse.Namespace) -> bool:
    """Whether this is the command of a training's first machine, on which files are written."""
    return not args.eval_only and args.machine_rank == 0


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, or would have no effect."""
    if args.resume and args.overwrite:
        raise InputError("--resume goes on and --overwrite begins anew: give one of them.")
    if args.eval_only and args.overwrite:
        raise InputError(
            "--overwrite begins a training anew: leave it out with --eval-only, which replaces "
            "results.json without it."
        )
    if args.allow_untrained and not args.eval_only:
        raise InputError(
            "--allow-untrained goes with --eval-only: a training may begin with gates and heads of "
            "random numbers."
        )


def read_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this run, its data sets registered."""
    if not args.config_file:
        raise InputError("--config-file is missing; configs/ holds some to choose from.")
    args.config_file = find_config(args.config_file)  # detectron2 prints this path, too
    cfg = load_config(args.config_file, [*args.opts, *SKIP_BAD * args.skip_bad])
    if not args.eval_only:
        cfg.TEST.WEIGHTS = ""  # the weights that this run makes are others
    elif cfg.TEST.WEIGHTS and "MODEL.WEIGHTS" not in args.opts[::2]:
        cfg.MODEL.WEIGHTS = cfg.TEST.WEIGHTS
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        # detectron2's AMP needs CUDA; on a CPU mixed precision means bfloat16 in the trunk.
        cfg.SOLVER.AMP.ENABLED = False
        cfg.MODEL.VIT.CPU_PRECISION = "bfloat16"
    register_datasets(cfg)
    cfg.freeze()
    return cfg


def check_run(args: argparse.Namespace) -> CfgNode:
    """Refuse a run that cannot work, once, before processes start; make the output folder.

    Returns the config.
    """
    cfg = read_config(args)
    check_processes(args)
    if writes_training(args):
        refuse_going_on(cfg.OUTPUT_DIR)
    check_usage(cfg)
    if cfg.TEST.AUG.ENABLED:
        raise InputError(
            "TEST.AUG.ENABLED: this command evaluates without augmentation; set it False."
        )
    prepare_datasets(cfg, training=not args.eval_only)
    processes = args.num_gpus * args.num_machines
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide into {processes} "
            "processes (--num-gpus times --num-machines)."
        )
    has_checkpoint = args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if args.eval_only and not cfg.MODEL.WEIGHTS and not has_checkpoint:
        raise InputError("MODEL.WEIGHTS is empty; name the trained weights to evaluate.")
    begins_from = ""
    if not has_checkpoint:
        check_parent(cfg.MODEL.WEIGHTS, training=not args.eval_only)
        begins_from = find_weights(cfg.MODEL.WEIGHTS)
    if not args.eval_only:
        say_epochs(cfg)
    check_sets(cfg)
    check_folder(
        cfg.OUTPUT_DIR,
        resume=args.resume,
        overwrite=args.overwrite,
        evaluates=args.eval_only,
        begins_from=begins_from,
    )
    return cfg


def say_epochs(cfg: CfgNode) -> None:
    """Print a line where the recipe is for a far larger set than the training set."""
    epochs = epochs_of(cfg)
    if epochs is not None and epochs > MANY_EPOCHS:
        print(
            f"{cfg.SOLVER.MAX_ITER} steps of {cfg.SOLVER.IMS_PER_BATCH} show every picture of "
            f"{', '.join(cfg.DATASETS.TRAIN)} {epochs:.0f} times: SOLVER.MAX_ITER is for a larger "
            "set; configs/custom has recipes for small ones.",
            file=sys.stderr,
        )


def check_parent(weights: str, *, training: bool) -> None:
    """Refuse missing weights and addresses, before a model is built and pictures are read."""
    refuse_url(weights, name="MODEL.WEIGHTS")
    if not weights or os.path.isfile(find_weights(weights)):
        return
    ways = "train them first with the config that writes there, or name others: MODEL.WEIGHTS FILE"
    if training:
        ways += '; MODEL.WEIGHTS "" starts from random weights'
    raise InputError(f"MODEL.WEIGHTS {weights}: no such file; {ways}.")


def train_or_evaluate(args: argparse.Namespace) -> None:
    """The work of one process of the run."""
    import_packages(args.packages)
    cfg = read_config(args)
    start_run(cfg, args)
    if args.eval_only:
        model = TokenTrainer.build_model(cfg)
        checkpointer = TokenCheckpointer(
            model, save_dir=cfg.OUTPUT_DIR, refuse_untrained=not args.allow_untrained
        )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = TokenTrainer.test(cfg, model)
        if comm.is_main_process():
            replace_results(Path(cfg.OUTPUT_DIR), results, config=cfg.dump())
            _say_written(cfg)
            check_expected(cfg.TEST.EXPECTED_RESULTS, results)
    else:
        trainer = TokenTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        begin_results(cfg)
        if args.overwrite and not args.resume and comm.is_main_process():
            clear_folder(cfg)
        try:
            trainer.train()
        except NotExpected:
            _write_results(cfg, trainer)
            raise
        _write_results(cfg, trainer)


def _write_results(cfg: CfgNode, trainer: TokenTrainer) -> None:
    results = getattr(trainer, "_last_eval_results", {})
    if results and comm.is_main_process():
        write_json(results_file(cfg), results)
        _say_written(cfg)


def _say_written(cfg: CfgNode) -> None:
    logging.getLogger("svit_det").info("Results written to %s", results_file(cfg))


def results_file(cfg: CfgNode) -> Path:
    """The file for the results of the last evaluation."""
    return Path(cfg.OUTPUT_DIR) / RESULTS


def written_results(cfg: CfgNode) -> dict[str, Any] | None:
    """The results that the run has written; None where the run evaluated nothing."""
    path = results_file(cfg)
    return json.loads(path.read_text()) if path.is_file() else None
