"""Counts the multiply-adds of a training step, the backward pass included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from svit_det.vit.flops import count_macs

_BACKWARD_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _backward_flops(
    gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def count_training_macs(step: Callable[[], Any]) -> int:
    """Multiply-adds of one forward and backward pass, as they really execute.

    `count_macs` knows the CPU's fused attention in the forward pass only. torch's own counter
    around it is told the cost of the backward pass: five products, where the forward pass has two.
    """
    outer = FlopCounterMode(display=False, custom_mapping={_BACKWARD_ON_CPU: _backward_flops})
    with outer:
        counted = count_macs(step).total
    backward = outer.get_flop_counts().get("Global", {}).get(_BACKWARD_ON_CPU, 0)
    return counted + backward // 2
