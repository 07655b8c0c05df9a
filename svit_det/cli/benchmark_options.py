"""The command line of the benchmark: its options, and the checks of their values."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from svit_det.benchmark.decisions import keeps_everyone
from svit_det.benchmark.runtimes import EAGER
from svit_det.cli.options import add_output, add_overwrite
from svit_det.errors import InputError
from svit_det.export.runtimes import NEEDED, check_modules
from svit_det.export.variants import VARIANTS
from svit_det.images import find_images
from svit_det.policies import POLICY_REGISTRY
from svit_det.settings import shown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARTS = ("blocks", "backbone", "detector", "training")
STAGED = ("backbone", "detector")
"""The parts that have stages."""
ELSEWHERE = ("blocks", "backbone", "detector")
"""The parts that processes of their own can run."""
COMPARABLE = ("blocks", "backbone")
"""The parts whose maps can be compared with those of another checkout."""
ALL_RUNTIMES = (EAGER, *VARIANTS)
MOST = 1_000_000
"""The largest number of any option: more turns end in no lifetime, more pixels fit no memory."""
MOST_THREADS = 1024


def parse_arguments(argv: Sequence[str], description: str) -> argparse.Namespace:
    """Read the command line."""
    return with_defaults(build_parser(description).parse_args(argv))


def build_parser(description: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="configs/plain_svit_s.yaml", help="which backbone")
    add("--runtime", nargs="+", metavar="NAME", help=f"{', '.join(ALL_RUNTIMES)}: at batch 1")
    add("--policies", nargs="+", metavar="NAME", help="several in one run, not the config's")
    add("--parts", nargs="+", choices=PARTS, default=["blocks", "backbone"], help="default: two")
    add("--height", type=int, default=800, help="pixels; padded as the backbone needs it")
    add("--width", type=int, default=1333, help="pixels; padded as the backbone needs it")
    add("--tokens", type=int, nargs=2, metavar=("H", "W"), help="the grid, instead of pixels")
    add("--grids", nargs="+", metavar="HxW", help="several grids of tokens, instead of --tokens")
    add("--image-folder", help="pictures to run on, instead of noise")
    add("--keep-ratios", type=float, nargs="+", help="by deciding block; default: the config's")
    add("--batch-sizes", type=int, nargs="+", help="default: 1 4, and 1 with --runtime")
    add("--count-spread", type=float, default=0.3, help="images of a batch keep 1 -+ this much")
    add("--images", type=int, default=3, help="different inputs, each timed --repeats times")
    add("--repeats", type=int, default=3, help="turns of every arm on every input")
    add("--warmup", type=int, default=1, help="turns thrown away")
    add("--threads", type=int, help="of the CPU; default: torch's choice")
    add("--dtype", choices=DTYPES, default="float32")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--against", metavar="FOLDER", help="an older checkout, whose arms take turns with ours")
    add("--throughput", action="store_true", help="images/s by batch size, and no speed-ups")
    add("--processes", type=int, nargs="+", metavar="N", help="images/s of N at a time likewise")
    add("--stages", action="store_true", help="also where backbone and detector spend their time")
    add("--decisions", action="store_true", help="also what deciding costs in each block")
    add("--no-memory", action="store_true", help="skip peak memory: two more processes per row")
    add("--plot", action="store_true", help="also charts, over tokens and over batch sizes")
    add_output(parser, "folder for results.json and charts", default="output/benchmark")
    add_overwrite(parser)
    add("--memory-of", nargs=4, help=argparse.SUPPRESS)  # see forward_memory
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in the batch sizes and the device where the command line leaves them open."""
    args.batch_sizes = args.batch_sizes or ([1] if args.runtime else [1, 4])
    if args.runtime:
        args.device = "cpu" if args.device is None else args.device
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured before anything is built."""
    sizes = {"--tokens": args.tokens or [1], "--batch-sizes": args.batch_sizes}
    sizes["--processes"] = args.processes or [1]
    single = ("height", "width", "images", "repeats", "threads")
    sizes |= {f"--{name}": [getattr(args, name)] for name in single}
    for name, values in sizes.items():
        check_numbers(name, values, most=MOST_THREADS if name == "--threads" else MOST)
    check_numbers("--warmup", [args.warmup], least=0)
    for share in args.keep_ratios or []:
        if not 0 < share <= 1:
            raise InputError(f"--keep-ratios {share}: shares lie in (0, 1].")
    if not 0 <= args.count_spread < 1:
        raise InputError(f"--count-spread {args.count_spread}: must lie in [0, 1).")
    if args.tokens and args.grids:
        raise InputError("--tokens and --grids both name grids: choose one of them.")
    if args.stages and not set(args.parts) & set(STAGED):
        raise InputError("--stages are those of backbone and detector: name one in --parts.")
    if args.decisions and "blocks" not in args.parts:
        raise InputError("--decisions are those of the blocks: name them in --parts.")
    grids_of(args)
    _check_modes(args)
    _check_policies(args.policies or [])
    if args.runtime:
        _check_runtimes(args)
    if args.against is not None:
        _check_checkout(args)
    if args.image_folder is not None:
        _check_pictures(args.image_folder)


def check_numbers(
    name: str, values: Sequence[int | None], *, least: int = 1, most: int = MOST
) -> None:
    """Refuse numbers that cannot be meant; None stands for an option that was not given.

    Raises InputError that names the option `name`.
    """
    numbers = [value for value in values if value is not None]
    given = " ".join(map(shown, numbers))
    if min(numbers, default=least) < least:
        raise InputError(f"{name} {given}: give numbers from {least} up.")
    if max(numbers, default=most) > most:
        raise InputError(f"{name} {given}: give numbers up to {most:,}.")


def grids_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    """The grids of tokens that are asked for; empty where the size is given in pixels."""
    if args.tokens:
        return [tuple(args.tokens)]
    grids = []
    for text in args.grids or []:
        sides = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
        if sides is None or min(map(int, sides.groups())) < 1:
            raise InputError(f"--grids {text}: give tokens as HxW, such as 16x16.")
        grids.append((int(sides[1]), int(sides[2])))
    return grids


def measures_rate(args: argparse.Namespace) -> bool:
    """Whether images per second are measured, and no speed-ups."""
    return bool(args.throughput or args.processes)


def _check_modes(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    rate = "--throughput" if args.throughput else "--processes"
    for name in ("stages", "decisions", "against"):
        if measures_rate(args) and getattr(args, name):
            raise InputError(f"--{name} belongs to speed-ups, which {rate} does not measure.")
    against = ELSEWHERE if args.runtime else COMPARABLE
    for option, parts in (("processes", ELSEWHERE), ("against", against), ("runtime", ELSEWHERE)):
        wrong = [part for part in args.parts if part not in parts]
        if getattr(args, option) and wrong:
            raise InputError(
                f"--{option} runs {', '.join(parts)}: take {', '.join(wrong)} out of --parts."
            )
    if args.against is not None and args.policies:
        raise InputError("--against compares one policy, the config's: leave --policies out.")
    several = [len(set(each or [])) > 1 for each in (args.grids, args.batch_sizes, args.processes)]
    if args.plot and not any(several):
        raise InputError(
            "--plot draws over tokens and over batch sizes: give several --grids, --batch-sizes or "
            "--processes."
        )


def _check_runtimes(args: argparse.Namespace) -> None:
    """Refuse unknown runtimes, missing packages, and options that exported files do not have."""
    for name in args.runtime:
        if name not in ALL_RUNTIMES:
            raise InputError(f"--runtime {name}: choose among {', '.join(ALL_RUNTIMES)}.")
        if args.runtime.count(name) > 1:
            raise InputError(f"--runtime {' '.join(args.runtime)}: names one twice.")
        if name != EAGER:
            check_modules(f"--runtime {name}", NEEDED[VARIANTS[name].format])
    for option in ("policies", "throughput", "processes", "stages", "decisions", "plot"):
        if getattr(args, option):
            raise InputError(f"--{option} is measured in eager torch alone: leave --runtime out.")
    if args.batch_sizes != [1]:
        raise InputError("--runtime: exported files take one image at a time: --batch-sizes 1.")
    if args.dtype != "float32" or args.device != "cpu":
        raise InputError(
            "--runtime: exported files run on the CPU, in what they were made in; leave --device "
            "and --dtype out."
        )


def _check_policies(names: Sequence[str]) -> None:
    for name in names:
        if "." in name:
            raise InputError(
                f"--policies {name}: an override is taken for one more name where it follows them; "
                "put another option between."
            )
        if keeps_everyone(POLICY_REGISTRY.named(name, "--policies")):
            raise InputError(f"--policies {name}: the dense model is in every run; name others.")
    if len(set(names)) < len(names):
        raise InputError(f"--policies {' '.join(names)}: names one twice.")


def _check_checkout(args: argparse.Namespace) -> None:
    folder = Path(args.against)
    if not (folder / "svit_det" / "__init__.py").is_file():
        raise InputError(
            f"--against {args.against}: no checkout of this project: no svit_det/__init__.py there."
        )


def _check_pictures(folder: str) -> None:
    try:
        find_images([folder])
    except InputError as error:
        raise InputError(f"--image-folder {error}") from error


def warn_of_few_cores(counts: Sequence[int]) -> None:
    """Print a line where more processes are asked for than there are cores."""
    cores = os.cpu_count() or 1
    if max(counts, default=0) > cores:
        print(
            f"--processes {max(counts)}: this machine has {cores} cores, which they will share.",
            file=sys.stderr,
        )
