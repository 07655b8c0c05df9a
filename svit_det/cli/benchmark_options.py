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
from svit_det.cli.numbers import COUNT, PIXELS, SHARE, THREADS, TOKENS, TURNS, Real, Whole
from svit_det.cli.options import add_output, add_overwrite
from svit_det.cli.output import refuse_folder_of
from svit_det.errors import InputError
from svit_det.export.runtimes import NEEDED, check_modules
from svit_det.export.variants import VARIANTS
from svit_det.images import find_images
from svit_det.policies import POLICY_REGISTRY

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARTS = ("blocks", "backbone", "detector", "training")
STAGED = ("backbone", "detector")
"""The parts that have stages."""
ELSEWHERE = ("blocks", "backbone", "detector")
"""The parts that processes of their own can run."""
COMPARABLE = ("blocks", "backbone")
"""The parts whose maps can be compared with those of another checkout."""
DEFAULT_SIZE = (800, 1333)
"""Height and width by default."""
ALL_RUNTIMES = (EAGER, *VARIANTS)


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
    parts = "what is timed; default: blocks backbone"
    add("--parts", nargs="+", choices=PARTS, default=["blocks", "backbone"], help=parts)
    for side, pixels in zip(("--height", "--width"), DEFAULT_SIZE, strict=True):
        padded = f"default: {pixels} pixels; padded as the backbone needs it"
        add(side, action=Whole, interval=PIXELS, help=padded)
    grid = "the grid, instead of pixels"
    add("--tokens", action=Whole, interval=TOKENS, nargs=2, metavar=("H", "W"), help=grid)
    add("--grids", nargs="+", metavar="HxW", help="several grids of tokens, instead of --tokens")
    add("--image-folder", help="pictures to run on, instead of noise")
    ratios = "by deciding block; default: the config's"
    add("--keep-ratios", action=Real, interval=SHARE, nargs="+", help=ratios)
    sizes = "default: 1 4, and 1 with --runtime"
    add("--batch-sizes", action=Whole, interval=COUNT, nargs="+", help=sizes)
    spread = "images of a batch keep 1 -+ this much"
    add("--count-spread", action=Real, interval="[0, 1)", default=0.3, help=spread)
    inputs = "different inputs, each timed --repeats times"
    add("--images", action=Whole, interval=COUNT, default=3, help=inputs)
    turns = "turns of every arm on every input"
    add("--repeats", action=Whole, interval=COUNT, default=3, help=turns)
    add("--warmup", action=Whole, interval=TURNS, default=1, help="turns thrown away")
    add("--threads", action=Whole, interval=THREADS, help="of the CPU; default: torch's choice")
    add("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--against", metavar="FOLDER", help="an older checkout, whose arms take turns with ours")
    add("--throughput", action="store_true", help="images/s by batch size, and no speed-ups")
    at_a_time = "images/s of N at a time likewise"
    add("--processes", action=Whole, interval=THREADS, nargs="+", metavar="N", help=at_a_time)
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
    """Fill in batch sizes, device and pixels where the command line leaves them open."""
    args.batch_sizes = args.batch_sizes or ([1] if args.runtime else [1, 4])
    if args.runtime:
        args.device = "cpu" if args.device is None else args.device
    if not args.tokens and not args.grids:
        args.height = DEFAULT_SIZE[0] if args.height is None else args.height
        args.width = DEFAULT_SIZE[1] if args.width is None else args.width
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured before anything is built."""
    if args.tokens and args.grids:
        raise InputError("--tokens and --grids both name grids: choose one of them.")
    if (args.tokens or args.grids) and (args.height, args.width) != (None, None):
        raise InputError(
            "--height and --width are pixels, and --tokens and --grids give the size in tokens: "
            "choose one of them."
        )
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
        _check_pictures(args)


def grids_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    """The grids of tokens that are asked for; empty where the size is given in pixels."""
    if args.tokens:
        return [tuple(args.tokens)]
    grids = []
    for text in args.grids or []:
        sides = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
        if sides is None:
            raise InputError(f"--grids {text[:60]}: give tokens as HxW, such as 16x16.")
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


def _check_pictures(args: argparse.Namespace) -> None:
    try:
        pictures = find_images([args.image_folder])
    except InputError as error:
        raise InputError(f"--image-folder {error}") from error
    refuse_folder_of(args.output, pictures)


def warn_of_few_cores(counts: Sequence[int]) -> None:
    """Print a line where more processes are asked for than there are cores."""
    cores = os.cpu_count() or 1
    if max(counts, default=0) > cores:
        print(
            f"--processes {max(counts)}: this machine has {cores} cores, which they will share.",
            file=sys.stderr,
        )
