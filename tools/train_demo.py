#!/usr/bin/env python3
"""Train the demo's two models from nothing: the dense parent, then SViT from it.

    python tools/train_demo.py [--output output/train_demo] [--steps N] [KEY VALUE ...]

Reproduces the weights in configs/demo/ up to the floating-point differences between machines.
Shipped weights are overwritten only with --install.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parent.parent
MODELS = ("dense", "svit")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="output/train_demo", help="folder for both runs")
    parser.add_argument("--steps", type=int, help="of each training, to try the command out")
    parser.add_argument("--install", action="store_true", help="put the weights in configs/demo/")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Train, evaluate and export both models."""
    output = Path(args.output).resolve()
    parent = ""
    for name in MODELS:
        folder = output / name
        command = [sys.executable, "tools/train_net.py", "--config-file"]
        command += [f"configs/demo/{name}.yaml", *args.opts]
        command += ["OUTPUT_DIR", str(folder), "MODEL.WEIGHTS", parent]
        if args.steps:
            command += ["SOLVER.MAX_ITER", str(args.steps), "SOLVER.STEPS", "()"]
        started = time.monotonic()
        print(f"Training {name}: the log shows what is left under 'eta'.", flush=True)
        if subprocess.run(command, cwd=PROJECT).returncode:
            sys.exit(f"train_demo.py: training {name} failed; its log is {folder / 'log.txt'}.")
        minutes = (time.monotonic() - started) / 60
        print(f"Training and evaluating {name} took {minutes:.1f} minutes.", flush=True)
        parent = str(folder / "model_final.pth")
        to = (PROJECT / "configs/demo" if args.install else output) / f"{name}.safetensors"
        export_weights(Path(parent), to)
        print(f"Weights in half precision: {to}", flush=True)


def export_weights(checkpoint: Path, to: Path) -> None:
    """A training checkpoint's model as safetensors; half precision where it is floating point.

    The tracked statistics of a policy stay in float32: they are few, and thresholds hang on them.
    """
    model = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    for name, value in model.items():
        if value.is_floating_point() and ".budget." not in name:
            value = value.half()
        model[name] = value.contiguous()
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_suffix(".partial")
    save_file(model, partial)
    partial.chmod(0o644)  # safetensors makes files that only their owner may read
    os.replace(partial, to)


if __name__ == "__main__":
    main(parse_arguments())
