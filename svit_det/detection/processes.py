"""Starting and ending the processes of a run, with a one-line error whatever ends them."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import torch
from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from svit_det.errors import InputError
from svit_det.interrupts import let_go, remembering_interrupts
from svit_det.training.lost_loader import lost_loader

MOST = 4096
"""Machines that can be meant."""
PATIENCE = 4
"""Seconds that processes get for each way of ending them."""
FEW, PER_CORE = 8, 4
"""Without a GPU, so many processes are started at the most, or so many for each core."""


def run_parser() -> argparse.ArgumentParser:
    """detectron2's arguments, and `--overwrite`."""
    parser = default_argument_parser(epilog="")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train anew in an OUTPUT_DIR that holds a training, which is removed",
    )
    return parser


def check_processes(args: argparse.Namespace) -> None:
    """Refuse processes that could not start or would wait for each other forever."""
    if args.num_gpus < 1 or args.num_machines < 1:
        raise InputError("--num-gpus and --num-machines count processes: at least 1, on CPUs too.")
    if args.num_machines > MOST:
        raise InputError(f"--num-machines {args.num_machines}: give {MOST} at the most.")
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank {args.machine_rank}: the ranks of {args.num_machines} machines are 0 "
            f"to {args.num_machines - 1} (--num-machines)."
        )
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus {args.num_gpus}: there are {torch.cuda.device_count()} GPUs here."
        )
    cores = os.cpu_count() or 1
    most = max(FEW, PER_CORE * cores)
    if not torch.cuda.is_available() and args.num_gpus > most:
        raise InputError(
            f"--num-gpus {args.num_gpus}: this machine has no GPU and {cores} cores; choose at "
            f"most {most} processes."
        )
    if args.num_gpus * args.num_machines > 1:
        _check_url(args.dist_url, args.num_machines, args.machine_rank)


def _check_url(url: str, machines: int, rank: int) -> None:
    if url == "auto":
        if machines > 1:
            raise InputError("--dist-url auto: several machines need tcp://HOST:PORT of the first.")
        return
    if url.startswith("file:///"):
        _check_file(url, machines)
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not url.startswith("tcp://") or not host or not port or parts.path not in ("", "/"):
        raise InputError(f"--dist-url {url!r} is not auto, tcp://HOST:PORT or file:///PATH.")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no name that a machine can have"
        raise InputError(
            f"--dist-url {url[:200]}: no machine '{host[:200]}' ({reason})."
        ) from error
    if rank == 0:
        _check_port(url, address)


def _check_file(url: str, machines: int) -> None:
    """Refuse a file through which processes cannot meet: the first of them makes the file.

    A run that is killed leaves its file, and the next run's processes would wait for those of the
    killed run. On several machines the file may just as well be that of the machine that came
    first.
    """
    path = url.removeprefix("file://")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"--dist-url {url}: is a folder or a device; name a new file.")
    if not os.path.isdir(os.path.dirname(path)):
        raise InputError(f"--dist-url {url}: its folder is not there; name a new file in another.")
    if machines == 1 and os.path.isfile(path) and os.path.getsize(path):
        raise InputError(
            f"--dist-url {url}: the file is there already, perhaps left by a run that was killed; "
            "name a new file, or remove this one if no run uses it."
        )


def _check_port(url: str, address: tuple) -> None:
    """Refuse an address on which the first machine cannot listen."""
    with socket.socket(address[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address[4])
            probe.listen(1)
        except OSError as error:
            raise InputError(
                f"--dist-url {url}: cannot be listened on ({error.strerror}); another run may use "
                "it: choose another port, or auto on a single machine."
            ) from error


def run_processes(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run `main` in as many processes as `args` say, until the last process has ended.

    Raises InputError for a failure that one sentence explains and, after Ctrl-C or SIGTERM, the
    same interrupt with advice how to go on. Other exceptions are passed on.
    """
    # Python warns when it cleans up what a killed process shared; this is no news to a user.
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    try:
        with remembering_interrupts():
            launch(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except KeyboardInterrupt as stop:
        end_children()
        let_go(stop)
        raise type(stop)("--resume goes on from the last checkpoint") from stop
    except (InputError, ProcessRaisedException, ProcessExitedException, RuntimeError) as problem:
        sentence = what_was_said(problem)
        if sentence is None:
            raise
        # A process that loads images would otherwise write to a pipe that nobody reads any more.
        end_children((signal.SIGTERM, signal.SIGKILL))
        raise InputError(sentence) from problem


def what_was_said(problem: Exception) -> str | None:
    """The sentence of an InputError, even if another process sent the error with its traceback.

    None: there is no such sentence.
    """
    begins = f"{InputError.__module__}.{InputError.__qualname__}: "
    # A loader of images wraps an InputError in one of its own, with line breaks as backslash n.
    lines = re.split(r"\n|\\n", str(problem))
    sent = [line.removeprefix(begins) for line in lines if line.startswith(begins)]
    if sent:
        return sent[-1]
    if isinstance(problem, ProcessExitedException):
        how = problem.signal_name or f"status {problem.exit_code}"
        return (
            f"process {problem.error_index} ended by itself ({how}), so the others were stopped; "
            "--resume goes on from the last checkpoint."
        )
    lost = lost_loader(problem, key="DATALOADER.NUM_WORKERS")
    if lost is not None:
        return lost
    return str(problem) if isinstance(problem, InputError) else None


def end_children(
    numbers: Sequence[int] = (0, signal.SIGINT, signal.SIGTERM, signal.SIGKILL),
) -> None:
    """End the processes that this process started, by these signals in turn; 0 only waits.

    A terminal's Ctrl-C has reached these processes too. A process that gets a signal while it
    writes a file removes the unfinished file first.
    """
    children = multiprocessing.active_children()
    for number in numbers:
        end = time.monotonic() + PATIENCE
        for child in children:
            if child.pid and child.is_alive():
                os.kill(child.pid, number)  # the number 0 sends no signal
        for child in children:
            child.join(max(end - time.monotonic(), 0))
