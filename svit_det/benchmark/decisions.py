"""The time of deciding in each block, and the time of a dense block.

L blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from svit_det.benchmark.clock import Applies, Label, method_clock
from svit_det.benchmark.timing import time_interleaved
from svit_det.policies import TokenPolicy
from svit_det.tokens import TokenState
from svit_det.vit import TokenTrunk
from svit_det.vit.layers import Attention
from svit_det.vit.view import BlockInProgress

HOOKS = ("before_block", "before_attention", "after_attention", "after_block")


def keeps_everyone(kind: type[TokenPolicy]) -> bool:
    """Whether policies of this class are the dense model: every hook is the contract's default."""
    return all(getattr(kind, hook) is getattr(TokenPolicy, hook) for hook in HOOKS)


def hooks_of(policy: TokenPolicy) -> list[tuple[Any, str, Label]]:
    """The policy's hooks, labelled by block: all code that runs for decisions.

    Values that the policy asks of its view, such as the class attention, are computed inside the
    hooks.
    """
    return [(policy, hook, lambda view, *_: view.layer) for hook in HOOKS]


def _keys_and_values(attention: Attention, rows: Any, start: int = 0, stop: int = 3) -> bool:
    return start > 0


def _always(*_: Any) -> bool:
    return True


NEEDED_ANYWAY: list[tuple[Any, str, Applies]] = [
    (Attention, "project", _keys_and_values),
    (BlockInProgress, "attended", _always),
]
"""Work that the block would do later if no policy had asked: projecting keys and values, and
writing rows back after the attention. The class token's query is no such work."""


def time_decisions(
    dense: TokenTrunk,
    pruned: TokenTrunk,
    inputs: Sequence[TokenState],
    *,
    device: torch.device | str,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> dict[str, Any]:
    """Raw seconds of each call: one dense block (the dense stack over L), each block's decision.

    `options` are those of `time_interleaved`; its warm-up rounds are thrown away here too.
    """
    watched = hooks_of(pruned.policy)
    calls: list[dict[Hashable, float]] = []

    def run_pruned(state: TokenState) -> None:
        with method_clock(watched, device, clock, left_out=NEEDED_ANYWAY) as seconds:
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
