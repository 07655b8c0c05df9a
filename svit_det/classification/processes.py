"""The processes of a training, as torchrun starts them; a single process without torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

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

    GPUs communicate through NCCL, CPUs through gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), torch.device(device)
        return
    on_gpu = device.startswith("cuda")
    here = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else device)
    if on_gpu:
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count), here
    finally:
        dist.destroy_process_group()
