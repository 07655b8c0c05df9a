"""Peak memory of one call: on a GPU from torch's allocator, on a CPU from the Linux kernel."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")


def peak_memory(run: Callable[[], Any], device: torch.device | str) -> int | None:
    """Bytes in use at the peak of `run`, less the bytes in use before it.

    On a CPU these are bytes of resident memory of this process, temporary buffers of libraries
    included. Freed memory may stay resident; measure calls that are to be compared in a fresh
    process each. None where the kernel gives no numbers (other systems than Linux).
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    try:
        # Reset the peak so far (man proc, clear_refs): the import of torch has caused a peak.
        (_PROCESS / "clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
