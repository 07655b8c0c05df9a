"""Counts the multiply-adds of a whole detector, and of its trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from svit_det.tokens import PassRecord
from svit_det.vit import find_token_net, record_passes
from svit_det.vit.flops import count_macs, trunk_macs


@torch.no_grad()
def count_detector(
    model: nn.Module, inputs: Sequence[Any], *, progress: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Mean giga multiply-adds of `model` on batches of one image: `trunk` and `detector`."""
    total = 0
    with record_passes(model) as records:
        for given in inputs:
            total += count_macs(partial(model, given)).total
            if progress is not None:
                progress()
    return {"trunk": _trunk_of(model, records, inputs), "detector": total / len(inputs) / 1e9}


def _trunk_of(model: nn.Module, records: Sequence[PassRecord], inputs: Sequence[Any]) -> float:
    trunk = find_token_net(model).trunk
    total = sum(trunk_macs(trunk, record).total.sum().item() for record in records)
    return total / len(inputs) / 1e9
