"""Where a backbone spends its time: embedding, side branch, blocks, resizes, pyramid."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from svit_det.adapter import ViTAdapter
from svit_det.benchmark.clock import method_clock
from svit_det.benchmark.timing import Timings, time_interleaved
from svit_det.vit import find_token_net

REST = "pyramid"
"""What is left of the whole: the pyramid on top, and moving between stages."""


Stages = dict[str, list[tuple[nn.Module, str]]]
"""By stage, the modules and methods that make it up."""


def find_stages(model: nn.Module) -> Stages:
    """The stages of the backbone `model`."""
    net = find_token_net(model)
    stages: Stages = {"embed": [(net.trunk, "embed")], "blocks": [(net.trunk, "run")]}
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
) -> Iterator[dict[Hashable, float]]:
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
) -> dict[str, dict[Hashable, list[float]]]:
    """Seconds by model and stage, call by call, the models taking turns as in `time_interleaved`.

    `options` are those of `time_interleaved`; its warm-up rounds are thrown away here too.
    """
    spent: dict[str, list[dict[Hashable, float]]] = {name: [] for name in models}

    def watched(name: str) -> Callable[[Any], None]:
        def run(given: Any) -> None:
            with stage_clock(models[name], device, clock) as seconds:
                models[name](given)
            spent[name].append(seconds)

        return run

    timings: Timings = time_interleaved(
        {name: watched(name) for name in models}, inputs, device=device, clock=clock, **options
    )
    found: dict[str, dict[Hashable, list[float]]] = {}
    for name, totals in timings.seconds.items():
        calls = spent[name][-len(totals) :]
        found[name] = {stage: [call[stage] for call in calls] for stage in calls[0]}
        rest = [total - sum(call.values()) for total, call in zip(totals, calls, strict=True)]
        found[name][REST] = rest
    return found
