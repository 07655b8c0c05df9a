"""The processes of a training, as torchrun starts them; a single process without torchrun."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from svit_det.errors import InputError
from svit_det.settings import shown

PATIENCE = timedelta(hours=1)
"""The time for which a process waits for the others, which may be evaluating or writing."""


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which writes and shows progress."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun has started; yield their number and rank, and the device.

    GPUs communicate through NCCL, CPUs through gloo. Raises InputError where torchrun's environment
    variables say nothing that processes can join by.
    """
    count = _number("WORLD_SIZE", 1, least=1)
    if count == 1:
        yield Processes(), torch.device(device)
        return
    rank = _number("RANK", None, most=count - 1)
    on_gpu = device.startswith("cuda")
    here = torch.device(f"cuda:{_number('LOCAL_RANK', 0)}" if on_gpu else device)
    _number("MASTER_PORT", None, most=65535)
    _check_host()
    if on_gpu:
        torch.cuda.set_device(here)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"process {rank} of {count} cannot join the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({reason.rstrip('.')})."
        ) from error
    try:
        yield Processes(dist.get_rank(), count), here
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        raise InputError(
            f"process {rank} of {count} has lost another process of the run, which may have been "
            "killed; start them all again, and a training with --resume."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_about_others(error: RuntimeError) -> bool:
    """Whether the error is about the connection to other processes; gloo's errors have no type."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _check_host() -> None:
    """Refuse a host that is not there, for which the processes would wait an hour."""
    host = os.environ.get("MASTER_ADDR")
    if not host:
        raise _said("MASTER_ADDR", "is not set")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise _said("MASTER_ADDR", f"is {shown(host)}, where no machine is") from error


def _number(name: str, default: int | None, *, least: int = 0, most: int = 100_000) -> int:
    """The whole number that an environment variable of torchrun holds. Raises InputError."""
    text = os.environ.get(name)
    if text is None:
        if default is None:
            raise _said(name, "is not set")
        return default
    is_number = text.isascii() and text.isdigit() and len(text) < 9
    if not (is_number and least <= int(text) <= most):
        raise _said(name, f"is {shown(text)}, no number from {least} to {most}")
    return int(text)


def _said(name: str, problem: str) -> InputError:
    return InputError(
        f"the environment variable {name} {problem}: start several processes with torchrun, or "
        "unset WORLD_SIZE."
    )
