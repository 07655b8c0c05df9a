"""Train the demo's models: a dense parent, then SViT from this parent; both also with the adapter.

    svit-det train-demo [--output output/train_demo] [--steps N] [KEY VALUE ...]

The adapter's dense parent starts from the trunk of the plain dense parent. The trainings reproduce
the weights in configs/demo/ up to the floating-point differences between machines. Shipped weights
are overwritten only with --install.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from typing import Any

from svit_det.cli.again import command_again
from svit_det.cli.numbers import LONG, Whole
from svit_det.cli.options import add_output, add_overrides, add_overwrite
from svit_det.cli.output import check_output
from svit_det.errors import InputError
from svit_det.files import real_path
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_weights

PROJECT = Path(__file__).resolve().parents[2]
PARENTS = {
    "dense": None,
    "svit": "dense",
    "adapter_dense": "dense",
    "adapter_svit": "adapter_dense",
}
"""Models in the order of training, and the parent whose weights each starts from."""
SHIPPED = ("dense", "svit", "adapter_svit")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_output(parser, "folder for the trainings", default="output/train_demo")
    steps = "of each training, to try the command out"
    parser.add_argument("--steps", action=Whole, interval=LONG, help=steps)
    parser.add_argument("--install", action="store_true", help="put the weights in configs/demo/")
    add_overwrite(parser)
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and export all models."""
    output = real_path(args.output)
    check_output(output, (), overwrite=True)
    weights_of: dict[str, str] = {}
    for name, parent in PARENTS.items():
        folder = output / name
        weights = in_the_project(output / parent / "model_final.pth") if parent else ""
        if name == "adapter_dense":
            weights = convert_trunk(weights, in_the_project(output / "trunk.pth"), name)
        command = command_again("train", packages=args.packages)
        command += ["--overwrite"] if args.overwrite else []
        command += ["--config-file", f"configs/demo/{name}.yaml", *args.opts]
        command += ["OUTPUT_DIR", in_the_project(folder), "MODEL.WEIGHTS", weights]
        if args.steps is not None:
            command += ["SOLVER.MAX_ITER", str(args.steps), "SOLVER.STEPS", "()"]
        started = time.monotonic()
        print(f"Training {name}: the log shows what is left under 'eta'.", flush=True)
        if subprocess.run(command, cwd=PROJECT).returncode:
            log = folder / "log.txt"
            told = f"its log is {log}" if log.is_file() else "the line above says why"
            raise InputError(f"Training {name} failed; {told}.")
        minutes = (time.monotonic() - started) / 60
        print(f"Training and evaluating {name} took {minutes:.1f} minutes.", flush=True)
        install = args.install and name in SHIPPED
        to = (PROJECT / "configs/demo" if install else output) / f"{name}.safetensors"
        export_weights(folder / "model_final.pth", to)
        weights_of[name] = str(to)
        print(f"Weights in half precision: {to}", flush=True)
    return {"output": str(output), "weights": weights_of}


def in_the_project(path: Path) -> str:
    """The path relative to the project's folder, where the trainings run; else the whole path.

    The weights carry their config, and shipped weights should not name a folder of one machine.
    """
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def convert_trunk(weights: str, to: str, name: str) -> str:
    """Write the trunk of a trained model, for a model with another pyramid; returns the file."""
    command = [*command_again("convert"), "--from", "trunk", "--weights", weights, "--overwrite"]
    command += ["--config-file", f"configs/demo/{name}.yaml", "--output", to]
    subprocess.run(command, cwd=PROJECT, check=True)
    return to


def export_weights(checkpoint: Path, to: Path) -> None:
    """Write a checkpoint's model as safetensors, with floating-point weights in half precision.

    The tracked statistics of a policy stay in float32: they are few, and thresholds depend on them.
    The checkpoint's description is written too.
    """
    trained = read_checkpoint(str(checkpoint))
    model = trained["model"]
    for name, value in model.items():
        if value.is_floating_point() and ".budget." not in name:
            value = value.half()
        model[name] = value.contiguous()
    write_weights(model, to, description=trained.get(DESCRIPTION))
