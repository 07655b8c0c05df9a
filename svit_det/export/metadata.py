"""The metadata of an exported file: all that a program without this package needs to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from svit_det import __version__
from svit_det.export.program import open_sides
from svit_det.vit import TokenNet

MASK_THRESHOLD = 0.5
"""The least probability (the sigmoid of a mask logit) of a mask's pixel, as in detectron2."""


def describe(
    model: nn.Module,
    net: TokenNet,
    *,
    part: str,
    outputs: Sequence[str],
    size: tuple[int, int],
    batch: int,
    divisor: int,
    dynamic_size: bool,
    fixed_count: bool,
    image_format: str,
    sides: tuple[int, int],
    said: Mapping[str, Any],
    opset: int,
    topk: bool,
) -> dict[str, Any]:
    """The metadata as plain values for JSON.

    `sides`: the shorter side that pictures are resized to, and the largest longer side. `said`: the
    checkpoint's description. `fixed_count`: no count of tokens depends on the image.
    """
    policy = net.trunk.policy
    schedule = policy.schedule
    return {
        "version": __version__,
        "part": part,
        "outputs": list(outputs),
        "policy": type(policy).__name__,
        "keep_schedule": None
        if schedule is None
        else {"layers": list(schedule.layers), "shares": list(schedule.shares)},
        "kept_tokens": "fixed" if fixed_count else "by image",
        "patch_size": net.trunk.patch_size,
        "input": {
            "name": "image",
            "layout": "batch, channel, row, column; float32, 0 to 255",
            "batch": batch,
            "size": None if dynamic_size else list(size),
            "size_divisor": divisor,
            "sides": list(open_sides(divisor)) if dynamic_size else None,
            "shorter_side": sides[0],
            "longest_side": sides[1],
            "channels": image_format,
            "padding": "at the right and below, with the mean",
            "mean": model.pixel_mean.flatten().tolist(),
            "std": model.pixel_std.flatten().tolist(),
            "normalised": "inside the graph",
        },
        "classes": list(said.get("classes", [])),
        "train_sets": list(said.get("train_sets", [])),
        "mask_threshold": MASK_THRESHOLD,
        "opset": opset,
        "topk": topk,
    }
