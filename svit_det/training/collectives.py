"""Means over the processes of a training."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """`value` averaged over all processes of the training; `value` itself in a single process.

    The gradient is that of this process's own `value`: DDP averages gradients over the processes,
    and the average is the gradient of a single process on the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    everywhere = value.detach().clone()
    dist.all_reduce(everywhere)
    # The value is exactly the mean, so that all processes go on with the same bits.
    return everywhere / dist.get_world_size() + (value - value.detach())
