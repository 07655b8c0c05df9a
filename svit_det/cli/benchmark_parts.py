"""The parts that are timed: blocks, backbone, detector and training step of every arm's model."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from svit_det.benchmark import arms as compared
from svit_det.cli.benchmark_inputs import pixel_scale
from svit_det.cli.benchmark_models import DENSE, Pair, build_arms, names_weights
from svit_det.cli.benchmark_options import DTYPES
from svit_det.cli.benchmark_training import TrainingStep
from svit_det.errors import InputError
from svit_det.tokens import TokenState


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that is timed, under every policy."""

    name: str
    models: Mapping[str, nn.Module]
    runs: Mapping[str, Callable[[Any], Any]]
    """The part's call by arm. `keep_all` may be one of the arms."""
    prepare: Callable[[Tensor], Any]
    """Turns images (B, 3, height, width) into the input that the runs take."""
    split: Callable[[Any], Sequence[Any]]
    """Splits a batch into batches of one."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """All parts and pairs of a run."""

    parts: Mapping[str, Part]
    pairs: Sequence[Pair]
    step: int
    """Image sides are multiples of this many pixels."""
    patch_size: int


def build(configs: Sequence[CfgNode], args: argparse.Namespace) -> Compared:
    """The wanted parts on the device."""
    whole = "detector" in args.parts or names_weights(args)
    models, pairs = build_arms(configs, args, whole=whole)
    backbones = {arm: model.backbone if whole else model for arm, model in models.items()}
    made: dict[str, Part] = {}
    if "training" in args.parts:
        made["training"] = _training(backbones, pairs, args)
    if "detector" in args.parts:
        made["detector"] = _detector(models, pairs[0].cfg, DTYPES[args.dtype])
    # By now decisions are settled and weights are copied, all in full precision.
    for model in models.values():
        model.to(DTYPES[args.dtype])
    first = next(iter(backbones.values()))
    patch_size = compared.trunk_of(first).patch_size
    made["blocks"] = _blocks(backbones, pairs)
    made["backbone"] = _backbone(backbones)
    return Compared(
        parts={name: made[name] for name in args.parts},
        pairs=pairs,
        step=patch_size if set(args.parts) == {"blocks"} else first.size_divisibility,
        patch_size=patch_size,
    )


def _blocks(backbones: Mapping[str, nn.Module], pairs: Sequence[Pair]) -> Part:
    """The block stack alone. A batch is embedded once, with and without a class token."""
    trunks = {arm: compared.trunk_of(model) for arm, model in backbones.items()}
    embedders = {pair.dense: trunks[pair.dense] for pair in pairs}
    dense_of = {pair.pruned: pair.dense for pair in pairs}

    def run(arm: str) -> Callable[[dict[str, TokenState]], TokenState]:
        stack = compared.run_stack(trunks[arm])
        own = dense_of.get(arm, arm if arm in embedders else DENSE)
        return lambda states: stack(states[own])

    def split(states: dict[str, TokenState]) -> list[dict[str, TokenState]]:
        singles = {arm: compared.split_state(state) for arm, state in states.items()}
        return [dict(zip(singles, each)) for each in zip(*singles.values(), strict=True)]

    return Part(
        name="blocks",
        models=trunks,
        runs={arm: run(arm) for arm in trunks},
        prepare=lambda images: {arm: trunk.embed(images) for arm, trunk in embedders.items()},
        split=split,
    )


def _backbone(backbones: Mapping[str, nn.Module]) -> Part:
    return Part(
        name="backbone",
        models=backbones,
        runs=backbones,
        prepare=lambda images: images,
        split=lambda images: images.split(1),
    )


def _detector(models: Mapping[str, nn.Module], cfg: CfgNode, dtype: torch.dtype) -> Part:
    """The whole detector on detectron2's inputs, post-processing included.

    In another dtype than float32 it has weights of its own, in float32, and runs under autocast:
    boxes, their suppression and the pooling of their features need float32.
    """
    mean, std = pixel_scale(cfg)
    device = cfg.MODEL.DEVICE.split(":")[0]
    mixed = dtype != torch.float32
    models = copy.deepcopy(dict(models)) if mixed else models

    def run(arm: str) -> Callable[[list[dict[str, Any]]], Any]:
        def run_mixed(given: list[dict[str, Any]]) -> Any:
            with torch.autocast(device, dtype=dtype):
                return models[arm](given)

        return run_mixed if mixed else models[arm]

    def prepare(images: Tensor) -> list[dict[str, Any]]:
        images = images.float()
        # Back to pixels: the detector normalises them into the images that the other parts get.
        scale, shift = (images.new_tensor(each).view(3, 1, 1) for each in (std, mean))
        height, width = images.shape[2:]
        return [
            {"image": each * scale + shift, "height": height, "width": width} for each in images
        ]

    return Part(
        name="detector",
        models=models,
        runs={arm: run(arm) for arm in models},
        prepare=prepare,
        split=lambda batch: [[each] for each in batch],
    )


def _training(
    backbones: Mapping[str, nn.Module], pairs: Sequence[Pair], args: argparse.Namespace
) -> Part:
    """A training step on weights of its own, because it moves the running means of batch norms.

    The weights are in float32; another dtype is the dtype of autocast, as in trainings.
    """
    names = dict.fromkeys(arm for pair in pairs for arm in pair.arms.values())
    copies = copy.deepcopy({arm: backbones[arm] for arm in names})
    dtype, cfg = DTYPES[args.dtype], pairs[0].cfg
    return Part(
        name="training",
        models=copies,
        runs={arm: TrainingStep(model, cfg, dtype=dtype) for arm, model in copies.items()},
        prepare=lambda images: images.float(),
        split=lambda images: images.split(1),
    )


def try_dtype(found: Compared, cfg: CfgNode, args: argparse.Namespace) -> None:
    """Run a tiny pass of every arm. Raises InputError where an arm cannot run in the dtype."""
    side = 8 * found.step
    images = torch.zeros(1, 3, side, side, device=cfg.MODEL.DEVICE, dtype=DTYPES[args.dtype])
    for part in found.parts.values():
        for run in part.runs.values():
            try:
                run(part.prepare(images))
            except (RuntimeError, NotImplementedError, TypeError) as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(
                    f"--dtype {args.dtype}: the {part.name} cannot run in it on {cfg.MODEL.DEVICE} "
                    f"({reason}); choose another, or other --parts."
                ) from error
