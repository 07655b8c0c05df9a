"""Dense against pruned, fairly timed: blocks, backbone, whole detector and training step.

    svit-det benchmark --config-file plain_svit_s --threads 2

Both arms have the same random weights, inputs, kernels (fused attention), dtype and threads, and
take turns; times are medians of turns, ratios medians of pairs. Every input is counted: eta is the
speed-up of a pair over the bound of its own input, and the bound is the median of the inputs. The
pruned arm is the config's policy without its wrappers. The policy's weights are spread a little and
its thresholds are tracked on noise, so that its decisions divide the tokens; SViT runs in `quota`
mode, a fixed keep schedule. A dense config is compared with SViT. Writes results.json with every
raw time.

--parts detector runs the whole detector of the config. With random weights a detector proposes
random boxes, and with many classes it finds nothing, so that masks cost nothing. MODEL.WEIGHTS FILE
among the overrides loads trained weights, with which the arms decide as trained, and --image-folder
runs on pictures. Policies whose counts depend on the image must be timed with both. --parts
training is a step of the backbone alone with the policy's own losses, forward and backward.

--dtype bfloat16 turns blocks and backbone into it. A whole detector and a training step keep their
weights in float32 and run under autocast. float32 is never TF32 here.

--policies NAME ... runs several policies and one dense model in turn, with the same weights in the
trunk; a policy that needs a class token is compared with a dense model that has one. A file named
by MODEL.WEIGHTS then serves the dense model alone, and the decisions of all policies are fresh.
--against FOLDER has the arms of an older checkout take turns with these arms, in a process of their
own. --throughput and --processes 1 2 4 measure images per second instead: --throughput for every
batch size, --processes for 1, 2 and 4 processes at the same time, of one thread each.

--runtime onnxruntime openvino also exports the model and runs the files in these runtimes, in turn
with eager torch: the dense model, the policy with a fixed count of tokens, and the policy with a
count that depends on the image, as far as the policy has these budgets. Each pass takes one image,
with the same number of threads. --against adds the older checkout's eager dense model.

The classifier has a command of its own, svit-det benchmark-classifier.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from svit_det.benchmark.arms import trunk_of
from svit_det.benchmark.checkout import commit_of
from svit_det.benchmark.memory import peak_memory
from svit_det.benchmark.precision import without_tf32
from svit_det.benchmark.report import (
    decisions_table,
    describe_machine,
    different_counts_table,
    stages_table,
    table,
)
from svit_det.benchmark.runtimes import runtimes_table
from svit_det.benchmark.tables import against_table, processes_table, throughput_table
from svit_det.cli.benchmark_charts import charts_in, draw_charts
from svit_det.cli.benchmark_elsewhere import config_in, start, start_workers
from svit_det.cli.benchmark_inputs import Size, image_sizes
from svit_det.cli.benchmark_measures import (
    Bench,
    measure,
    measure_processes,
    measure_throughput,
)
from svit_det.cli.benchmark_models import read_configs
from svit_det.cli.benchmark_options import build_parser as options_parser
from svit_det.cli.benchmark_options import check, measures_rate, warn_of_few_cores, with_defaults
from svit_det.cli.benchmark_parts import Compared, build, try_dtype
from svit_det.cli.benchmark_runtimes import measure_runtimes
from svit_det.cli.execution import problem_of
from svit_det.cli.output import check_output, files_read
from svit_det.errors import InputError
from svit_det.files import real_path, scratch_folder
from svit_det.results import write_json
from svit_det.shipped import find_config


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    return options_parser(__doc__ or "")


def main(argv: Sequence[str]) -> str | None:
    """Measure everything that was asked for; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


@without_tf32()
@torch.no_grad()
def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark; or, with --memory-of, the memory of one pass alone."""
    check(with_defaults(args))
    if not args.memory_of:
        names = ["results.json", *charts_in(args.output, wanted=args.plot)]
        check_output(args.output, names, overwrite=args.overwrite, inputs=files_read(args))
    args.config_file = find_config(args.config_file)
    configs = read_configs(args)
    if args.against is not None:
        config_in(real_path(args.against), args.config_file)
    warn_of_few_cores(args.processes or [])
    if args.threads:
        torch.set_num_threads(args.threads)
    found = build(configs, args)
    sizes = image_sizes(args, found.step, found.patch_size)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        words = [word for word in args.argv if word != "--json"]
        bench = Bench(args=args, found=found, argv=words, scratch=scratch)
        if args.memory_of:
            print(json.dumps(memory_of(bench, *args.memory_of)))
            return {}
        if args.dtype != "float32":
            try_dtype(found, configs[0], args)
        path = Path(args.output) / "results.json"
        results = describe(bench, sizes)
        for key in ("command", "machine", "device", "dtype", "image_size", "token_grid"):
            print(f"{key.replace('_', ' ')}: {results[key]}")
        if measures_rate(args):
            measure_rates(bench, sizes, results, path, stack)
            print_rates(results)
        elif args.runtime:
            measure_arms(bench, sizes, results, path, stack)
            print_arms(results["runtimes"])
        else:
            measure_rows(bench, sizes, results, path, stack)
            print_rows(results["rows"], several=bool(args.policies))
        if args.plot:
            for chart in draw_charts(results, path.parent):
                print(f"Chart: {chart}")
        print(f"\nAll figures: {path}")
        return results


def memory_of(bench: Bench, name: str, arm: str, batch: str, size: str) -> int | None:
    """Peak memory of one pass of one arm, for `forward_memory`, which starts this process."""
    try:
        part = bench.found.parts[name]
        part.runs[arm]
        height, width = map(int, size.split("x"))
        images = bench.images(int(batch), (height, width))[0]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"--memory-of {name} {arm} {batch} {size}: there is no such part, arm, batch or size; "
            "this option is for the benchmark's own use."
        ) from error
    given = part.prepare(images)
    side = 8 * bench.found.step
    small = part.prepare(bench.images(1, (side, side))[0])
    part.runs[arm](small)  # the first pass sets up libraries and threads
    return peak_memory(lambda: part.runs[arm](given), bench.device)


def describe(bench: Bench, sizes: Sequence[Size]) -> dict[str, Any]:
    """The head of the results. With several grids or policies, each row names its own."""
    args, found = bench.args, bench.found
    policies = [pair.policy for pair in found.pairs]
    schedule = _schedule(found)
    described = {
        "command": shlex.join(["python", "tools/benchmark.py", *bench.argv]),
        "machine": describe_machine(bench.device),
        "device": bench.device,
        "dtype": args.dtype,
        "image_size": sizes[0],
        "token_grid": [side // found.patch_size for side in sizes[0]],
        "policy": policies if args.policies else policies[0],
        "layers": list(schedule.layers) if schedule else [],
        "keep_ratios": list(schedule.shares) if schedule else [],
        "count_spread": args.count_spread,
        "rows": [],
    }
    if args.against is not None:
        described["against"] = {"folder": args.against, "commit": commit_of(Path(args.against))}
    if measures_rate(args):
        described |= {"throughput": [], "processes": []}
    if args.runtime:
        described["runtimes"] = []
    return described


def _schedule(found: Compared) -> Any:
    """The schedule of a single policy; None for several policies."""
    if len(found.pairs) > 1:
        return None
    model = next(iter(found.parts.values())).models[found.pairs[0].pruned]
    return trunk_of(model).policy.schedule


# ------------------------------------------------------------------ measuring


def measure_rows(
    bench: Bench, sizes: Sequence[Size], results: dict[str, Any], path: Path, stack: ExitStack
) -> None:
    """Measure speed-ups; the file is written after each, so that an interrupted run keeps them."""
    bench = beside_older(bench, stack)
    for part, size in product(bench.found.parts.values(), sizes):
        for batch in bench.args.batch_sizes:
            results["rows"] += measure(bench, part, batch, size)
            write_json(path, results)


def beside_older(bench: Bench, stack: ExitStack) -> Bench:
    """`bench`, with the process of the older checkout where --against names one."""
    if bench.args.against is None:
        return bench
    worker = start(real_path(bench.args.against), f"--against {bench.args.against}")
    return replace(bench, older=stack.enter_context(worker))


def measure_arms(
    bench: Bench, sizes: Sequence[Size], results: dict[str, Any], path: Path, stack: ExitStack
) -> None:
    """Measure runtimes and budgets; the file is written after each."""
    bench = beside_older(bench, stack)
    for part, size in product(bench.found.parts.values(), sizes):
        results["runtimes"].append(measure_runtimes(bench, part, size))
        write_json(path, results)


def measure_rates(
    bench: Bench, sizes: Sequence[Size], results: dict[str, Any], path: Path, stack: ExitStack
) -> None:
    """Measure images per second; the file is written after each."""
    args, parts = bench.args, bench.found.parts.values()
    workers = [stack.enter_context(worker) for worker in start_workers(args)]
    for part, size, batch in product(parts, sizes, args.batch_sizes):
        if args.throughput:
            results["throughput"].append(measure_throughput(bench, part, batch, size))
            write_json(path, results)
        for count in args.processes or []:
            results["processes"] += measure_processes(bench, part, batch, size, workers[:count])
            write_json(path, results)


# ------------------------------------------------------------------ what people read


def print_rows(rows: Sequence[dict[str, Any]], *, several: bool) -> None:
    """Print each table that has rows."""
    print(f"\nPer image; medians, quartiles in brackets.\n{table(rows)}")
    if several:
        with_token = {row["policy"] for row in rows if row["dense_arm"] != "dense"}
        if with_token:
            print(f"Dense has a class token beside {', '.join(sorted(with_token))}.")
    if compared := against_table(rows):
        print(f"\nThis checkout over the older one:\n{compared}")
    for title, own in by_title(rows).items():
        if stages := stages_table(own):
            print(f"\nWhere the {title} spends its time, ms per batch:\n{stages}")
        if decisions := decisions_table(own):
            print(f"\nWhat deciding costs, per batch, in the {title}:\n{decisions}")
    if different := different_counts_table(rows):
        print(f"\nDifferent counts per image of the same total, no gates:\n{different}")


def print_arms(rows: Sequence[dict[str, Any]]) -> None:
    """Print runtimes and budgets, and whether the older checkout's maps agree."""
    print(f"\nPer image; medians, quartiles in brackets.\n{runtimes_table(rows)}")
    for row in rows:
        if row["against"] is not None:
            apart = row["against"]["largest_difference"]["dense"]
            says = "agree" if row["against"]["agrees"] else "DIFFER"
            print(f"{row['part']}: dense maps of the older checkout {says} ({apart:.1e}).")


def by_title(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by part, and also by policy and by grid where there are several."""
    policies = {row["policy"] for row in rows}
    grids = {tuple(row["token_grid"]) for row in rows}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        title = row["part"]
        title += f" under {row['policy']}" if len(policies) > 1 else ""
        title += " of {} x {} tokens".format(*row["token_grid"]) if len(grids) > 1 else ""
        found.setdefault(title, []).append(row)
    return found


def print_rates(results: dict[str, Any]) -> None:
    """Print images per second."""
    if results["throughput"]:
        text = throughput_table(results["throughput"])
        print(f"\nImages per second, mean and standard deviation of the batches:\n{text}")
    if results["processes"]:
        text = processes_table(results["processes"])
        print(f"\nImages per second of all processes together, one thread each:\n{text}")
