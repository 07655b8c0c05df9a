"""Images per second of a classifier over batch sizes: figure 1 of SViT's supplementary.

    svit-det benchmark-classifier --config-file imagenet/svit_s --plot

The dense model and the pruned model take turns on the same random batches; the pruned model runs
images of different lengths in every way of --ways. The speed of a batch is the mean over all its
calls; the table has mean and standard deviation over the batches. By default a CPU runs 5 batches x
5 calls at sizes 1 to 32, and a GPU 30 x 50 at sizes 1 to 512. Without --weights the weights are
random, with decisions that divide tokens about as trained decisions do; without --image-folder the
images are noise.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from svit_det.benchmark.arms import settle, with_policy
from svit_det.benchmark.precision import without_tf32
from svit_det.benchmark.report import describe_machine
from svit_det.benchmark.tables import throughput_table
from svit_det.benchmark.throughput import speed_of_batches
from svit_det.benchmark.timing import time_interleaved
from svit_det.benchmark.unequal import WAYS, Run, run_in
from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.thresholds import warn_of_untracked
from svit_det.classification.weights import load_weights
from svit_det.cli.benchmark_charts import charts_in, draw_charts
from svit_det.cli.benchmark_inputs import cover
from svit_det.cli.benchmark_options import DTYPES
from svit_det.cli.execution import problem_of
from svit_det.cli.numbers import COUNT, THREADS, TURNS, Whole
from svit_det.cli.options import (
    add_config_file,
    add_device,
    add_output,
    add_overrides,
    add_overwrite,
    add_weights,
)
from svit_det.cli.output import check_output, files_read, refuse_folder_of
from svit_det.errors import InputError
from svit_det.images import find_images, read_image, spread_out
from svit_det.policies.dense import Dense
from svit_det.results import write_json
from svit_det.shipped import find_config

PART = "classifier"
ON_CPU: dict[str, Any] = {"batch_sizes": [1, 2, 4, 8, 16, 32], "batches": 5, "repeats": 5}
ON_GPU: dict[str, Any] = {
    "batch_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    "batches": 30,
    "repeats": 50,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_config_file(parser, "which classifier", default="configs/imagenet/svit_s.yaml")
    add_weights(parser, "trained weights; default: random")
    add("--image-folder", help="pictures to run on, or class folders of them, instead of noise")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of unequal lengths")
    sizes = "default: 1 to 32, on a GPU to 512"
    add("--batch-sizes", action=Whole, interval=COUNT, nargs="+", help=sizes)
    batches = "random batches of each size; default: 5, on a GPU 30"
    add("--batches", action=Whole, interval=COUNT, help=batches)
    calls = "calls on each batch; default: 5, on a GPU 50"
    add("--repeats", action=Whole, interval=COUNT, help=calls)
    add("--warmup", action=Whole, interval=TURNS, default=1, help="turns thrown away")
    add("--threads", action=Whole, interval=THREADS, help="of the CPU; default: torch's choice")
    add("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    add_device(parser)
    add("--plot", action="store_true", help="also a chart over batch sizes, with error bars")
    add_output(parser, "folder for results.json and chart", default="output/benchmark_classifier")
    add_overwrite(parser)
    add_overrides(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Measure the classifier; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


@without_tf32()
@torch.inference_mode()
def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement; the file is written after each batch size."""
    cfg = load_config(find_config(args.config_file), [*args.opts, *_device(args)])
    device = torch.device(cfg.MODEL.DEVICE)
    for name, value in (ON_CPU if device.type == "cpu" else ON_GPU).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    check(args)
    names = ["results.json", *charts_in(args.output, wanted=args.plot)]
    check_output(args.output, names, overwrite=args.overwrite, inputs=files_read(args))
    if args.image_folder is not None:
        refuse_folder_of(args.output, pictures_in(args.image_folder))
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = arms_of(cfg, args)
    side = cfg.INPUT.SIZE // cfg.MODEL.VIT.PATCH_SIZE
    results: dict[str, Any] = {
        "command": shlex.join(["python", "tools/benchmark_classifier.py", *args.argv]),
        "machine": describe_machine(device),
        "device": str(device),
        "dtype": args.dtype,
        "policy": cfg.MODEL.TOKEN_POLICY.NAME,
        "rows": [],
        "throughput": [],
    }
    path = Path(args.output) / "results.json"
    for size in args.batch_sizes:
        batches = [each.to(device, DTYPES[args.dtype]) for each in batches_of(cfg, args, size)]
        with tqdm(total=args.warmup + args.batches * args.repeats, desc=f"batch {size}") as bar:
            timings = time_interleaved(
                runs,
                batches,
                repeats=args.repeats,
                warmup=args.warmup,
                device=device,
                progress=bar.update,
            )
        row = {"part": PART, "batch_size": size, "token_grid": [side, side]}
        row["images_per_second"] = speed_of_batches(timings, size, args.batches)
        results["throughput"].append({**row, "raw_seconds_per_batch": timings.seconds})
        write_json(path, results)
    text = throughput_table(results["throughput"])
    print(f"\nImages per second, mean and standard deviation over the batches:\n{text}")
    if args.plot:
        for chart in draw_charts(results, path.parent):
            print(f"Chart: {chart}")
    print(f"\nAll figures: {path}")
    return results


def _device(args: argparse.Namespace) -> list[str]:
    return [] if args.device is None else ["MODEL.DEVICE", args.device]


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured before anything is built."""
    if args.plot and len(set(args.batch_sizes)) < 2:
        raise InputError("--plot draws over batch sizes: give several --batch-sizes.")


def arms_of(cfg: Any, args: argparse.Namespace) -> dict[str, Run]:
    """The dense model, and the pruned one in every wanted way, with the same weights."""
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_classifier(cfg).to(cfg.MODEL.DEVICE).eval()
        if args.weights:
            load_weights(model, args.weights, for_training=False)
            warn_of_untracked(model, args.weights)
        else:
            settle(model.trunk)
    model.to(DTYPES[args.dtype])
    dense = with_policy(model, Dense())
    return {"dense": dense, **{way: run_in(way, model) for way in args.ways}}


def batches_of(cfg: Any, args: argparse.Namespace, size: int) -> list[Tensor]:
    """Random batches (size, 3, pixels, pixels) of noise, or of pictures of the folder.

    The pictures are spread evenly over the folder and then shuffled, because a batch of one class
    may keep other tokens than a batch of several classes.
    """
    pixels = cfg.INPUT.SIZE
    generator = torch.Generator().manual_seed(1)
    if args.image_folder is None:
        shape = (size, 3, pixels, pixels)
        return [torch.randn(shape, generator=generator) for _ in range(args.batches)]
    wanted = size * args.batches
    chosen = spread_out(pictures_in(args.image_folder), wanted)
    if len(chosen) < wanted:
        print(
            f"--image-folder {args.image_folder}: {args.batches} batches of {size} take {wanted} "
            f"pictures, and the folder has {len(chosen)}, so that pictures repeat.",
            file=sys.stderr,
        )
    repeated = list(islice(cycle(chosen), wanted))
    paths = [repeated[number] for number in torch.randperm(wanted, generator=generator)]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (cfg.INPUT.MEAN, cfg.INPUT.STD))
    images = []
    for path in paths:
        image = cover(read_image(path, "RGB"), (pixels, pixels)).transpose(2, 0, 1)
        images.append((torch.from_numpy(image.copy()).float() / 255 - mean) / std)
    return list(torch.stack(images).split(size))


def pictures_in(folder: str) -> list[Path]:
    """The pictures of a folder, or of its class folders where it has ImageNet's layout."""
    place = Path(folder)
    classes = sorted(each for each in place.iterdir() if each.is_dir()) if place.is_dir() else []
    return find_images(classes or [place])
