"""A prediction as picture files: detections beside the heat map, keep maps, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from svit_det.detection.prediction import Prediction
from svit_det.detection.usage_picture import usage_picture
from svit_det.visualization import (
    Objects,
    UsageScale,
    draw_attention_maps,
    draw_keep_maps,
    draw_overview,
    write_image,
)

KINDS = ("detections_heatmap", "keep_maps", "attention")
"""The pictures that `write_pictures` may write; attention only where the prediction has it."""


def names_of(stem: str, suffix: str) -> list[str]:
    """The names of all files that `write_pictures` may write."""
    return [f"{stem}_{kind}{suffix}" for kind in KINDS]


def overview(
    prediction: Prediction, *, min_score: float = 0.5, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """(height, width, 3) uint8: the detections beside the heat map of blocks per token."""
    return draw_overview(usage_picture(prediction, min_score=min_score, class_names=class_names))


def write_overview(
    prediction: Prediction,
    path: Path,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write `overview` to the file `path`. Raises InputError where it cannot be written."""
    write_image(path, overview(prediction, min_score=min_score, class_names=class_names))


def write_pictures(
    prediction: Prediction,
    folder: Path,
    stem: str,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
    annotated: Objects | None = None,
    full_scale: bool = False,
    suffix: str = ".png",
    check: Callable[[Sequence[str]], object] | None = None,
) -> list[Path]:
    """Write `STEM_detections_heatmap` and `STEM_keep_maps` to `folder`, as PNG or JPEG by `suffix`.

    `STEM_attention` is written too, if the prediction has the class token's attention. `annotated`
    is drawn beside the detections. The heat map's scale covers the numbers of blocks that occur in
    this picture. With `full_scale` the scale runs from 0 to L, and every block has a keep map.
    `check` is called with the names of all files before the first of them is written, and may raise
    InputError. Raises InputError where a picture cannot be written.
    """
    picture = usage_picture(
        prediction, min_score=min_score, class_names=class_names, annotated=annotated, name=stem
    )
    scale = UsageScale.full(picture.layers) if full_scale else None
    pictures = {
        "detections_heatmap": draw_overview(picture, scale=scale),
        "keep_maps": draw_keep_maps(picture, all_blocks=full_scale),
    }
    if picture.attention is not None:
        pictures["attention"] = draw_attention_maps(picture)
    named = {f"{stem}_{kind}{suffix}": drawn for kind, drawn in pictures.items()}
    if check is not None:
        check(list(named))
    for name, drawn in named.items():
        write_image(folder / name, drawn)
    return [folder / name for name in named]
