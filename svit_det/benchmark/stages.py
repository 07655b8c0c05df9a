"""The time of each stage of a backbone or detector: embedding, side branch, blocks, heads, rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from svit_det.adapter import ViTAdapter, output_maps
from svit_det.benchmark.clock import method_clock
from svit_det.benchmark.timing import Timings, time_interleaved
from svit_det.vit import find_token_net
from svit_det.vit.flops import flop_counter

REST = "pyramid"
"""The stage of all other work in a backbone: the pyramid, and moving data between stages."""
DETECTOR_REST = "rest"
"""The stage of all other work in a detector: padding, normalising, post-processing, counting."""
_BACKBONE = "backbone"
HEADS = {"proposal_generator": "proposals", "roi_heads": "heads", "head": "heads"}
"""The stage of each of these attributes of a detector."""

INSIDE = {
    "ffns": "extractors",
    "norms": "resizes",
    "upsampling": "resizes",
    "projection": "resizes",
}
"""Stages that run inside of another stage, whose own share is the rest of it."""

Stages = dict[str, list[tuple[Any, str]]]
"""By stage, its modules and methods, or functions of a Python module."""


def find_stages(model: nn.Module) -> Stages:
    """The stages of the backbone `model`; for a detector, those of its backbone and its heads.

    A detector's stages include the whole backbone, as `backbone`.
    """
    net = find_token_net(model)
    stages: Stages = {"embed": [(net.trunk, "embed")], "blocks": [(net.trunk, "run")]}
    if isinstance(net, ViTAdapter):
        stages |= {
            "prior": [(net.spatial_prior, "forward")],
            "injectors": [(injector, "forward") for injector in net.injectors],
            "extractors": [(extractor, "forward") for extractor in net.extractors],
            "ffns": [(extractor.ffn, "forward") for extractor in net.extractors],
            "resizes": [(net, "add_trunk")],
        }
        stages |= _inside_the_resizes(net)
    if isinstance(getattr(model, "backbone", None), nn.Module):
        stages[_BACKBONE] = [(model.backbone, "forward")]
        for attribute, stage in HEADS.items():
            if isinstance(part := getattr(model, attribute, None), nn.Module):
                stages[stage] = [(part, "forward")]
    return stages


def _inside_the_resizes(net: ViTAdapter) -> Stages:
    """The layers of the output maps, in both ways in which they run.

    Norms of inference are folded into the layers and resizes beside them, and take no time of their
    own; then the layers are not called as modules.
    """
    found: Stages = {"norms": [(norm, "forward") for norm in net.norms]}
    if net.up is not None and net.spatial_prior.fc1 is not None:
        found["upsampling"] = [(output_maps, "add_upsampled"), (net.up, "forward")]
        found["projection"] = [
            (output_maps, "add_projected"),
            (net.spatial_prior.fc1, "forward"),
        ]
    return found


def with_rest(stages: Mapping[Hashable, float], total: float) -> dict[Hashable, float]:
    """One call's stages with the remaining time; `backbone` becomes REST, what is left of it."""
    found = dict(stages)
    if _BACKBONE not in found:
        return {**found, REST: total - sum(found.values())}
    backbone = found.pop(_BACKBONE)
    heads = {stage: found.pop(stage) for stage in HEADS.values() if stage in found}
    found[REST] = backbone - sum(found.values())
    return {**found, **heads, DETECTOR_REST: total - backbone - sum(heads.values())}


@contextmanager
def stage_clock(
    model: nn.Module, device: torch.device | str, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[Hashable, float]]:
    """Seconds of each stage of `model` within the with-block, without the remaining time.

    After the block, no stage includes a stage of `INSIDE`, and such a stage is there if it ran.
    """
    stages = find_stages(model)
    watched = [
        (module, name, lambda *_, stage=stage: stage)
        for stage, each in stages.items()
        for module, name in each
    ]
    with method_clock(watched, device, clock) as spent:
        spent.update({stage: 0.0 for stage in stages if stage not in INSIDE})
        yield spent
    for inner, outer in INSIDE.items():
        if inner in spent:
            spent[outer] -= spent[inner]


def time_stages(
    models: Mapping[str, nn.Module],
    inputs: Sequence[Any],
    *,
    device: torch.device | str,
    runs: Mapping[str, Callable[[Any], Any]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> dict[str, dict[Hashable, list[float]]]:
    """Seconds of each call by model and stage; the models take turns as in `time_interleaved`.

    `runs` are the calls of the models, where a model is not simply called. `options` are those of
    `time_interleaved`; its warm-up rounds are thrown away here too.
    """
    calls_of = models if runs is None else runs
    spent: dict[str, list[dict[Hashable, float]]] = {name: [] for name in models}

    def watched(name: str) -> Callable[[Any], None]:
        def run(given: Any) -> None:
            with stage_clock(models[name], device, clock) as seconds:
                calls_of[name](given)
            spent[name].append(seconds)

        return run

    timings: Timings = time_interleaved(
        {name: watched(name) for name in models}, inputs, device=device, clock=clock, **options
    )
    found: dict[str, dict[Hashable, list[float]]] = {}
    for name, totals in timings.seconds.items():
        pairs = zip(spent[name][-len(totals) :], totals, strict=True)
        calls = [with_rest(call, total) for call, total in pairs]
        found[name] = {stage: [call[stage] for call in calls] for stage in calls[0]}
    return found


@torch.no_grad()
def stage_macs(model: nn.Module, inputs: Sequence[Any]) -> dict[Hashable, float]:
    """Multiply-adds that each stage of a pass really executes, with the remaining ones.

    A stage's figure is the mean over the inputs. Sampling, resizing and norms count as no
    multiply-adds; their time lowers the rate of a stage.
    """
    passes = [_stage_macs_of(model, given) for given in inputs]
    return {stage: sum(each[stage] for each in passes) / len(passes) for stage in passes[0]}


def _stage_macs_of(model: nn.Module, given: Any) -> dict[Hashable, float]:
    counter = flop_counter()

    def so_far() -> float:
        return counter.get_total_flops() / 2

    with counter, stage_clock(model, "cpu", so_far) as spent:
        model(given)
    return with_rest(spent, so_far())
