#!/usr/bin/env python3
"""Train the demo's models: a dense parent, then SViT from it; the same with the adapter.

    python tools/train_demo.py [--output output/train_demo] [--steps N] [KEY VALUE ...]

The adapter's dense parent starts from the trunk of the first one. Reproduces the weights in
configs/demo/ up to the floating-point differences between machines. Shipped weights are overwritten
only with --install.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_weights

PROJECT = Path(__file__).resolve().parent.parent
PARENTS = {
    "dense": None,
    "svit": "dense",
    "adapter_dense": "dense",
    "adapter_svit": "adapter_dense",
}
"""Models in the order of training, and whose weights each starts from."""
SHIPPED = ("dense", "svit", "adapter_svit")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="output/train_demo", help="folder for both runs")
    parser.add_argument("--steps", type=int, help="of each training, to try the command out")
    parser.add_argument("--overwrite", action="store_true", help="train anew what is there already")
    parser.add_argument("--install", action="store_true", help="put the weights in configs/demo/")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Train, evaluate and export all models."""
    output = Path(args.output).resolve()
    for name, parent in PARENTS.items():
        folder = output / name
        weights = in_the_project(output / parent / "model_final.pth") if parent else ""
        if name == "adapter_dense":
            weights = convert_trunk(weights, in_the_project(output / "trunk.pth"), name)
        again = ["--overwrite"] if args.overwrite else []
        command = [sys.executable, "tools/train_net.py", *again, "--config-file"]
        command += [f"configs/demo/{name}.yaml", *args.opts]
        command += ["OUTPUT_DIR", in_the_project(folder), "MODEL.WEIGHTS", weights]
        if args.steps:
            command += ["SOLVER.MAX_ITER", str(args.steps), "SOLVER.STEPS", "()"]
        started = time.monotonic()
        print(f"Training {name}: the log shows what is left under 'eta'.", flush=True)
        if subprocess.run(command, cwd=PROJECT).returncode:
            sys.exit(f"train_demo.py: training {name} failed; its log is {folder / 'log.txt'}.")
        minutes = (time.monotonic() - started) / 60
        print(f"Training and evaluating {name} took {minutes:.1f} minutes.", flush=True)
        install = args.install and name in SHIPPED
        to = (PROJECT / "configs/demo" if install else output) / f"{name}.safetensors"
        export_weights(folder / "model_final.pth", to)
        print(f"Weights in half precision: {to}", flush=True)


def in_the_project(path: Path) -> str:
    """From the project's folder, where the trainings run; whole for what lies elsewhere.

    The weights carry their config, and what ships should not name a folder of one machine.
    """
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def convert_trunk(weights: str, to: str, name: str) -> str:
    """The trunk of a trained model, for a model with another pyramid; returns its path."""
    command = [sys.executable, "tools/convert_weights.py", "--from", "trunk", "--weights", weights]
    command += ["--config-file", f"configs/demo/{name}.yaml", "--output", to]
    subprocess.run(command, cwd=PROJECT, check=True)
    return to


def export_weights(checkpoint: Path, to: Path) -> None:
    """A training checkpoint's model as safetensors; half precision where it is floating point.

    The tracked statistics of a policy stay in float32: they are few, and thresholds hang on them.
    What the checkpoint says of itself goes along.
    """
    trained = read_checkpoint(str(checkpoint))
    model = trained["model"]
    for name, value in model.items():
        if value.is_floating_point() and ".budget." not in name:
            value = value.half()
        model[name] = value.contiguous()
    write_weights(model, to, description=trained.get(DESCRIPTION))


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except InputError as problem:
        sys.exit(f"train_demo.py: {problem}")
