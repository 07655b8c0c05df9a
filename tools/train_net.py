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
import sys
from pathlib import Path

import detectron2.utils.comm as comm
from detectron2.config import CfgNode

from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets, register_datasets
from svit_det.detection.processes import check_processes, run_parser, run_to_the_end
from svit_det.detection.run_files import check_folder, clear_folder, start_run
from svit_det.detection.token_usage import check_usage
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.results import write_json


def read_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this run, its data sets registered."""
    if not args.config_file:
        raise InputError("--config-file is missing; configs/ holds some to choose from.")
    cfg = load_config(args.config_file, args.opts)
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
    check_processes(args)
    check_usage(cfg)
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
    check_folder(
        cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite, evaluates=args.eval_only
    )


def main(args: argparse.Namespace) -> dict:
    """One process of the run; returns the evaluation results."""
    cfg = read_config(args)
    start_run(cfg, args)
    if args.eval_only:
        model = TokenTrainer.build_model(cfg)
        checkpointer = TokenCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = TokenTrainer.test(cfg, model)
    else:
        trainer = TokenTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        if args.overwrite and not args.resume and comm.is_main_process():
            clear_folder(cfg)
        trainer.train()
        results = getattr(trainer, "_last_eval_results", {})
    if results and comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR) / "results.json"
        write_json(path, results)
        logging.getLogger("svit_det").info("Results written to %s", path)
    return results


if __name__ == "__main__":
    arguments = run_parser().parse_args()
    sys.exit(run_to_the_end("train_net.py", check_run, main, arguments))
