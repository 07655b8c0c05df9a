#!/usr/bin/env python3
"""Train a token-pruned detector, or evaluate one: COCO AP and token usage side by side.

python tools/train_net.py --config-file configs/plain_svit_t.yaml [KEY VALUE ...]
python tools/train_net.py --config-file configs/plain_svit_t.yaml --eval-only MODEL.WEIGHTS FILE
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import logging
import re
import sys
from pathlib import Path

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets, register_datasets
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.results import write_json

SKIP_BAD = ("DATASETS.SKIP_BAD", "True")


def read_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this run, its data sets registered."""
    if not args.config_file:
        raise InputError("--config-file is missing; configs/ holds some to choose from.")
    cfg = load_config(args.config_file, [*args.opts, *SKIP_BAD * args.skip_bad])
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        # detectron2's AMP is CUDA's; on a CPU mixed precision is bfloat16 in the trunk.
        cfg.SOLVER.AMP.ENABLED = False
        cfg.MODEL.VIT.CPU_PRECISION = "bfloat16"
    register_datasets(cfg)
    cfg.freeze()
    return cfg


def check_run(args: argparse.Namespace) -> None:
    """Say what is wrong once, before processes start and time passes; make the output folder."""
    cfg = read_config(args)
    prepare_datasets(cfg, training=not args.eval_only)
    processes = args.num_gpus * args.num_machines
    if processes < 1:
        raise InputError("--num-gpus and --num-machines count processes: at least 1, on CPUs too.")
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide into {processes} "
            "processes (--num-gpus times --num-machines)."
        )
    has_checkpoint = args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if args.eval_only and not cfg.MODEL.WEIGHTS and not has_checkpoint:
        raise InputError("MODEL.WEIGHTS is empty; name the trained weights to evaluate.")
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        (Path(cfg.OUTPUT_DIR) / "config.yaml").touch()
    except OSError as error:
        raise InputError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: cannot be written ({error}).") from error


def main(args: argparse.Namespace) -> dict:
    """One process of the run; returns the evaluation results."""
    cfg = read_config(args)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="svit_det")
    if args.eval_only:
        model = TokenTrainer.build_model(cfg)
        checkpointer = TokenCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = TokenTrainer.test(cfg, model)
    else:
        trainer = TokenTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        results = getattr(trainer, "_last_eval_results", {})
    if results and comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR) / "results.json"
        write_json(path, results)
        logging.getLogger("svit_det").info("Results written to %s", path)
    return results


def what_was_said(problem: Exception) -> str | None:
    """The sentence of an InputError, also of one that another process sent with its traceback."""
    name = re.escape(f"{InputError.__module__}.{InputError.__qualname__}")
    sent = re.findall(rf"^{name}: (.+)$", str(problem), re.MULTILINE)
    if sent:
        return sent[-1]
    return str(problem) if isinstance(problem, InputError) else None


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument(
        "--skip-bad", action="store_true", help="go on without what the check of a set refuses"
    )
    arguments = parser.parse_args()
    try:
        check_run(arguments)
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except (InputError, ProcessRaisedException) as problem:
        sentence = what_was_said(problem)
        if sentence is None:
            raise
        sys.exit(f"train_net.py: {sentence}")
