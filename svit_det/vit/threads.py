"""Small blocks run on one thread where the other threads sleep.

Under OMP_WAIT_POLICY=PASSIVE, which the commands set, threads that wait for work sleep, and every
operation on several threads wakes the others first. That takes about a tenth of a millisecond, and
the ten operations of a small block are not much longer. Where threads spin, nothing is changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

THREADS_SLEEP = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
"""OpenMP reads the policy once too, when torch is imported."""
WAKING_MACS = 70_000_000
"""What a thread computes while the others are woken for the operations of one block, in
multiply-adds. `python benchmarks/by_hand.py alone` measures the two ways on another machine."""
T = TypeVar("T")


def on_few_threads(work: Callable[[], T], tokens: Tensor, macs: int) -> T:
    """The result of work of so many multiply-adds, on one thread where waking others takes longer.

    n threads save (n - 1) / n of the time of one thread. Nothing is changed in training, in a
    graph, on another device than the CPU, or in any thread but the program's first: torch hands the
    current number of threads to each new thread.
    """
    threads = torch.get_num_threads() if _may_change(tokens) else 1
    if threads == 1 or macs * (threads - 1) > WAKING_MACS * threads:
        return work()
    torch.set_num_threads(1)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


def _may_change(tokens: Tensor) -> bool:
    return (
        THREADS_SLEEP
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and tokens.device.type == "cpu"
        and threading.current_thread() is threading.main_thread()
    )
