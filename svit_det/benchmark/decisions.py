"""What deciding costs in each block, beside what a block of the dense model costs.

L blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from svit_det.benchmark.clock import Label, method_clock
from svit_det.benchmark.timing import time_interleaved
from svit_det.tokens import TokenState
from svit_det.vit import TokenTrunk

HOOKS = ("before_block", "before_attention", "after_attention", "after_block")


def find_decisions(trunk: TokenTrunk) -> list[tuple[Any, str, Label]]:
    """Everything that runs for the decision's sake: the policy, and the class token's own row."""
    watched: list[tuple[Any, str, Label]] = [
        (trunk.policy, hook, lambda layer, *_: layer) for hook in HOOKS
    ]
    for number, block in enumerate(trunk.blocks):
        watched.append((block.attn, "class_row", lambda *_, number=number: number))
    return watched


def time_decisions(
    dense: TokenTrunk,
    pruned: TokenTrunk,
    inputs: Sequence[TokenState],
    *,
    device: torch.device | str,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> dict[str, Any]:
    """Raw seconds, call by call: of one dense block (the stack over L), of each block's decision.

    `options` are those of `time_interleaved`; its warm-up rounds are thrown away here too.
    """
    watched = find_decisions(pruned)
    calls: list[dict[Hashable, float]] = []

    def run_pruned(state: TokenState) -> None:
        with method_clock(watched, device, clock) as seconds:
            pruned.run(state, 0, pruned.depth)
        calls.append(seconds)

    timings = time_interleaved(
        {"dense": lambda state: dense.run(state, 0, dense.depth), "pruned": run_pruned},
        inputs,
        device=device,
        clock=clock,
        **options,
    )
    kept = calls[-len(timings.seconds["pruned"]) :]
    return {
        "dense_block": [seconds / dense.depth for seconds in timings.seconds["dense"]],
        "decision_by_block": [
            [call.get(layer, 0.0) for call in kept] for layer in range(pruned.depth)
        ],
    }
