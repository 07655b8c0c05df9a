"""What a whole detector computes, and how much of it in its trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from svit_det.benchmark.stages import find_net
from svit_det.tokens import TokenTrace
from svit_det.vit.flops import count_macs, trunk_macs


@torch.no_grad()
def count_detector(
    model: nn.Module, inputs: Sequence[Any], *, progress: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Mean giga multiply-adds of `model` on batches of one image: `trunk` and `detector`."""
    net, traces = find_net(model), list[TokenTrace]()
    handle = net.register_forward_hook(lambda _module, _given, output: traces.append(output[1]))
    total = 0
    try:
        for given in inputs:
            total += count_macs(partial(model, given)).total
            if progress is not None:
                progress()
    finally:
        handle.remove()
    trunk = sum(trunk_macs(net.trunk, trace).total.sum().item() for trace in traces)
    return {"trunk": trunk / len(inputs) / 1e9, "detector": total / len(inputs) / 1e9}
