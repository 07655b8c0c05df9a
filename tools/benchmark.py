#!/usr/bin/env python3
"""Dense against pruned, fairly timed: the block stack alone and the whole backbone.

    python tools/benchmark.py --config-file configs/plain_svit_s.yaml --threads 2

Both arms have the same random weights, inputs, kernels (fused attention), dtype and threads, and
take turns; times are medians of turns, ratios medians of pairs. The pruned arm is the config's
policy without its wrappers, its weights spread a little and its thresholds tracked on noise, so
that they divide tokens; SViT in `quota` mode, a fixed keep schedule. A dense config is compared
with SViT. Writes results.json with every raw time.
"""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from tqdm import tqdm

from svit_det.benchmark import arms as compared
from svit_det.benchmark.decisions import keeps_everyone, time_decisions
from svit_det.benchmark.memory import peak_memory
from svit_det.benchmark.report import (
    decisions_table,
    describe_machine,
    different_counts_table,
    stages_table,
    summarise,
    table,
)
from svit_det.benchmark.stages import time_stages
from svit_det.benchmark.timing import time_interleaved
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY
from svit_det.results import write_json
from svit_det.tokens import TokenState
from svit_det.vit.flops import count_macs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARTS = ("blocks", "backbone")
DEFAULT_POLICY = "SViT"
"""What a dense config is compared with."""
MEMORY_ARMS = ("dense", "pruned")


@dataclass(frozen=True)
class Part:
    """One thing that is timed, under every policy."""

    name: str
    models: dict[str, nn.Module]
    runs: dict[str, Callable[[Any], Any]]
    """By arm: keep_all, dense, pruned."""
    prepare: Callable[[Tensor], Any]
    """Images to what the runs take."""
    split: Callable[[Any], Sequence[Any]]
    """A batch to batches of one."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="configs/plain_svit_s.yaml", help="which backbone")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: both")
    add("--height", type=int, default=800, help="pixels; padded as the backbone needs it")
    add("--width", type=int, default=1333, help="pixels; padded as the backbone needs it")
    add("--tokens", type=int, nargs=2, metavar=("H", "W"), help="the grid, instead of pixels")
    add("--keep-ratios", type=float, nargs="+", help="by deciding block; default: the config's")
    add("--batch-sizes", type=int, nargs="+", default=[1, 4])
    add("--count-spread", type=float, default=0.3, help="images of a batch keep 1 -+ this much")
    add("--images", type=int, default=3, help="different inputs, each timed --repeats times")
    add("--repeats", type=int, default=3, help="turns of every arm on every input")
    add("--warmup", type=int, default=1, help="turns thrown away")
    add("--threads", type=int, help="of the CPU; default: torch's choice")
    add("--dtype", choices=DTYPES, default="float32")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--stages", action="store_true", help="also where the backbone spends its time")
    add("--decisions", action="store_true", help="also what deciding costs in each block")
    add("--no-memory", action="store_true", help="skip peak memory: two more processes per row")
    add("--output", default="output/benchmark", help="folder for results.json")
    add("--memory-of", nargs=3, help=argparse.SUPPRESS)  # part, arm, batch size: see forward_memory
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured before anything is built."""
    sizes = {"--tokens": args.tokens or [1], "--batch-sizes": args.batch_sizes}
    single = ("height", "width", "images", "repeats", "threads")
    sizes |= {f"--{name}": [getattr(args, name)] for name in single}
    for name, values in sizes.items():
        if any(value is not None and value < 1 for value in values):
            raise InputError(f"{name} {' '.join(map(str, values))}: give numbers from 1 up.")
    if args.warmup < 0:
        raise InputError(f"--warmup {args.warmup}: give 0 or more.")
    if args.stages and "backbone" not in args.parts:
        raise InputError("--stages are those of the backbone: name it in --parts.")
    if args.decisions and "blocks" not in args.parts:
        raise InputError("--decisions are those of the blocks: name them in --parts.")
    if not 0 <= args.count_spread < 1:
        raise InputError(f"--count-spread {args.count_spread}: must lie in [0, 1).")


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config, its policy without wrappers; SViT, also in place of Dense, in quota mode."""
    device = ["MODEL.DEVICE", args.device] if args.device else []
    cfg = load_config(args.config_file, [*args.opts, *device])
    policy = cfg.MODEL.TOKEN_POLICY
    policy.WRAPPERS, policy.SVIT.MODE = [], "quota"
    if keeps_everyone(POLICY_REGISTRY.named(policy.NAME, "MODEL.TOKEN_POLICY.NAME")):
        policy.NAME = DEFAULT_POLICY
    if args.keep_ratios:
        policy.KEEP_RATIOS = args.keep_ratios
    return cfg


def build_parts(cfg: CfgNode, args: argparse.Namespace) -> tuple[dict[str, Part], int]:
    """The wanted parts on the device, and what image sides are multiples of."""
    torch.manual_seed(0)
    backbone = build_backbone(cfg).to(cfg.MODEL.DEVICE, DTYPES[args.dtype])
    compared.settle(compared.trunk_of(backbone))
    models = compared.policy_arms(backbone)
    trunks = {arm: compared.trunk_of(model) for arm, model in models.items()}
    stacks = {arm: compared.run_stack(trunk) for arm, trunk in trunks.items()}
    parts = {
        "blocks": Part("blocks", trunks, stacks, trunks["dense"].embed, compared.split_state),
        "backbone": Part("backbone", models, models, lambda images: images, lambda x: x.split(1)),
    }
    step = backbone.size_divisibility if "backbone" in args.parts else trunks["dense"].patch_size
    return {name: parts[name] for name in args.parts}, step


def image_size(args: argparse.Namespace, step: int, patch_size: int) -> tuple[int, int]:
    """(height, width) in pixels, multiples of `step`."""
    if args.tokens is None:
        return -(-args.height // step) * step, -(-args.width // step) * step
    height, width = (side * patch_size for side in args.tokens)
    if height % step or width % step:
        raise InputError(
            f"--tokens {args.tokens[0]} {args.tokens[1]}: the backbone needs multiples of "
            f"{step // patch_size} tokens; choose others, or --parts blocks."
        )
    return height, width


def make_inputs(part: Part, cfg: CfgNode, args: argparse.Namespace, batch: int, size) -> list:
    """`--images` different batches of noise, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    batches = (torch.randn(batch, 3, *size, generator=generator) for _ in range(args.images))
    dtype = DTYPES[args.dtype]
    return [part.prepare(images.to(cfg.MODEL.DEVICE, dtype)) for images in batches]


def measure(part: Part, cfg: CfgNode, args: argparse.Namespace, batch: int, size) -> dict:
    """All figures of one part at one batch size."""
    device = cfg.MODEL.DEVICE
    inputs = make_inputs(part, cfg, args, batch, size)
    runs = dict(part.runs)
    found: dict[str, Any] = {"part": part.name, "batch_size": batch}
    macs = {}
    if part.name == "blocks":
        counted, record = compared.count_stack(part.models["pruned"], inputs[0])
        macs = {"dense": counted.dense_stack * batch, "pruned": int(counted.stack.sum())}
        found["bound_if_deciding_were_free"] = counted.bound_of_blocks
        found["kept_tokens_per_block"] = record.counts().float().mean(dim=0).tolist()
    else:
        for arm in ("dense", "pruned"):
            macs[arm] = count_macs(lambda arm=arm: runs[arm](inputs[0])).total
    if batch > 1:
        runs.pop("keep_all", None)  # said once, at batch 1
        runs["one_by_one"] = compared.one_by_one(runs["pruned"], part.split)
    if batch > 1 and part.name == "blocks":
        macs |= add_schedules(part.models["dense"], runs, found, inputs[0], args)
    found["macs_per_image"] = {arm: value / batch for arm, value in macs.items()}
    turns = args.warmup + args.images * args.repeats
    with tqdm(total=turns, desc=f"{part.name}, batch {batch}", unit="turn") as bar:
        timings = time_interleaved(runs, inputs, **turning(args, bar))
    found |= summarise(timings, macs=macs, batch_size=batch)
    found["host_syncs_per_forward"] = {
        arm: compared.count_host_syncs(lambda arm=arm: runs[arm](inputs[0]), device)
        for arm in MEMORY_ARMS
    }
    found["peak_memory_bytes"] = {
        arm: None if args.no_memory else forward_memory(part, arm, inputs[0], args)
        for arm in MEMORY_ARMS
    }
    found["raw_seconds_per_batch"] = timings.seconds
    if args.stages and part.name == "backbone":
        models = {arm: part.models[arm] for arm in MEMORY_ARMS}
        with tqdm(total=turns, desc="stages", unit="turn") as bar:
            found["stage_seconds_per_batch"] = time_stages(models, inputs, **turning(args, bar))
    if args.decisions and part.name == "blocks":
        trunks = [part.models[arm] for arm in MEMORY_ARMS]
        with tqdm(total=turns, desc="decisions", unit="turn") as bar:
            timed = time_decisions(*trunks, inputs, **turning(args, bar))
        found["decision_seconds_per_batch"] = timed
    return found


def turning(args: argparse.Namespace, bar: tqdm) -> dict[str, Any]:
    """The options of `time_interleaved`."""
    options = {"repeats": args.repeats, "warmup": args.warmup, "device": args.measured_on}
    return {**options, "progress": bar.update}


def add_schedules(
    trunk, runs: dict, found: dict, state: TokenState, args: argparse.Namespace
) -> dict:
    """Put the arms with equal and different counts into `runs`; returns their multiply-adds."""
    batch, num_tokens = state.patches.shape[:2]
    mean_counts = [round(count) for count in found["kept_tokens_per_block"]]
    trunks, run_alone, counts = compared.schedule_arms(
        trunk, mean_counts, batch, num_tokens, args.count_spread
    )
    runs |= {name: compared.run_stack(each) for name, each in trunks.items()}
    runs["different_one_by_one"] = run_alone
    found["different_counts_kept"] = counts.tolist()
    return {
        name: int(compared.count_stack(each, state)[0].stack.sum()) for name, each in trunks.items()
    }


def forward_memory(part: Part, arm: str, given: Any, args: argparse.Namespace) -> int | None:
    """Peak memory of one forward pass; on a CPU in a process of its own, see peak_memory.

    There glibc gives every large buffer back as soon as it is freed, so that the peak is that of
    what is in use and not of what the heap happens to retain.
    """
    images = given.tokens if isinstance(given, TokenState) else given
    if images.device.type != "cpu":
        return peak_memory(lambda: part.runs[arm](given), images.device)
    command = [sys.executable, "-W", "ignore", __file__]
    command += ["--memory-of", part.name, arm, str(len(images)), *args.argv]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    """Measure everything that was asked for."""
    check(args)
    cfg = read_config(args)
    args.measured_on = cfg.MODEL.DEVICE
    if args.threads:
        torch.set_num_threads(args.threads)
    parts, step = build_parts(cfg, args)
    size = image_size(args, step, cfg.MODEL.VIT.PATCH_SIZE)
    if args.memory_of:
        name, arm, batch = args.memory_of
        part = parts[name]
        state = make_inputs(part, cfg, args, int(batch), size)[0]
        small = make_inputs(part, cfg, args, 1, (8 * step, 8 * step))[0]
        part.runs[arm](small)  # libraries and threads set themselves up
        print(json.dumps(peak_memory(lambda: part.runs[arm](state), cfg.MODEL.DEVICE)))
        return
    path = Path(args.output) / "results.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {args.output}: cannot be written ({error}).") from error
    schedule = compared.trunk_of(next(iter(parts.values())).models["pruned"]).policy.schedule
    patch = cfg.MODEL.VIT.PATCH_SIZE
    results = {
        "command": shlex.join(["python", "tools/benchmark.py", *args.argv]),
        "machine": describe_machine(cfg.MODEL.DEVICE),
        "device": cfg.MODEL.DEVICE,
        "dtype": args.dtype,
        "image_size": size,
        "token_grid": [side // patch for side in size],
        "policy": cfg.MODEL.TOKEN_POLICY.NAME,
        "layers": list(schedule.layers) if schedule else [],
        "keep_ratios": list(schedule.shares) if schedule else [],
        "count_spread": args.count_spread,
        "rows": [],
    }
    for key in ("command", "machine", "device", "dtype", "image_size", "token_grid"):
        print(f"{key.replace('_', ' ')}: {results[key]}")
    for part in parts.values():
        for batch in args.batch_sizes:
            results["rows"].append(measure(part, cfg, args, batch, size))
            write_json(path, results)  # a run that is cut short keeps what it has
    print(f"\nPer image; medians, quartiles in brackets.\n{table(results['rows'])}")
    if stages := stages_table(results["rows"]):
        print(f"\nWhere the backbone spends its time, ms per batch:\n{stages}")
    if decisions := decisions_table(results["rows"]):
        print(f"\nWhat deciding costs, per batch:\n{decisions}")
    if different := different_counts_table(results["rows"]):
        print(f"\nDifferent counts per image of the same total, no gates:\n{different}")
    print(f"\nAll figures: {path}")


if __name__ == "__main__":
    try:
        arguments = parse_arguments(sys.argv[1:])
        arguments.argv = sys.argv[1:]
        main(arguments)
    except InputError as problem:
        sys.exit(f"benchmark.py: {problem}")
