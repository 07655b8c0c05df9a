"""Where a backbone spends its time: embedding, side branch, blocks, resizes, pyramid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from svit_det.adapter import ViTAdapter
from svit_det.benchmark.clock import method_clock
from svit_det.benchmark.timing import Timings, time_interleaved
from svit_det.vit import PlainViT

REST = "pyramid"
"""What is left of the whole: the pyramid on top, and moving between stages."""


def find_net(model: nn.Module) -> PlainViT | ViTAdapter:
    """The network inside `model` that returns maps and trace."""
    return next(part for part in model.modules() if isinstance(part, (PlainViT, ViTAdapter)))


def find_stages(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """The (module, method) pairs that make up each stage of the backbone `model`."""
    net = find_net(model)
    stages = {"embed": [(net.trunk, "embed")], "blocks": [(net.trunk, "run")]}
    if isinstance(net, ViTAdapter):
        stages |= {
            "prior": [(net.spatial_prior, "forward")],
            "injectors": [(injector, "forward") for injector in net.injectors],
            "extractors": [(extractor, "forward") for extractor in net.extractors],
            "resizes": [(net, "add_trunk")],
        }
    return stages


@contextmanager
def stage_clock(
    model: nn.Module, device: torch.device | str, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[str, float]]:
    """Seconds that each stage of `model` takes within the with-block, REST not among them."""
    stages = find_stages(model)
    watched = [
        (module, name, lambda *_, stage=stage: stage)
        for stage, each in stages.items()
        for module, name in each
    ]
    with method_clock(watched, device, clock) as spent:
        spent.update(dict.fromkeys(stages, 0.0))
        yield spent


def time_stages(
    models: Mapping[str, nn.Module],
    inputs: Sequence[Any],
    *,
    device: torch.device | str,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> dict[str, dict[str, list[float]]]:
    """Seconds by model and stage, call by call, the models taking turns as in `time_interleaved`.

    `options` are those of `time_interleaved`; its warm-up rounds are thrown away here too.
    """
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in models}

    def watched(name: str) -> Callable[[Any], None]:
        def run(given: Any) -> None:
            with stage_clock(models[name], device, clock) as seconds:
                models[name](given)
            spent[name].append(seconds)

        return run

    timings: Timings = time_interleaved(
        {name: watched(name) for name in models}, inputs, device=device, clock=clock, **options
    )
    found: dict[str, dict[str, list[float]]] = {}
    for name, totals in timings.seconds.items():
        calls = spent[name][-len(totals) :]
        found[name] = {stage: [call[stage] for call in calls] for stage in calls[0]}
        rest = [total - sum(call.values()) for total, call in zip(totals, calls, strict=True)]
        found[name][REST] = rest
    return found
