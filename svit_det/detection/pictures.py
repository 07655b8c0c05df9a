"""A prediction as pictures: detections with masks, the heat map over the image, the keep maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib import colormaps

from svit_det.detection.prediction import Prediction
from svit_det.visualization import (
    draw_attention_maps,
    draw_heatmap,
    draw_keep_maps,
    side_by_side,
    write_image,
)

COLOURS = colormaps["tab10"].colors
MAX_LABELLED = 15
"""Above this many objects the labels would hide the picture."""
MIN_WIDTH, MAX_SIDE = 512, 2048
"""Pixels of a picture that detections are drawn on."""


def draw_detections(
    image: np.ndarray,
    instances: Instances,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """(height, width, 3) uint8 with the masks and boxes that score `min_score` and up."""
    instances = instances[instances.scores >= min_score]
    height, width = image.shape[:2]
    scale = min(max(MIN_WIDTH / width, 1.0), MAX_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    canvas = Visualizer(cv2.resize(image, size), None, instance_mode=ColorMode.IMAGE)
    masks = None
    if instances.has("pred_masks"):
        masks = [
            cv2.resize(mask.numpy().astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
            for mask in instances.pred_masks
        ]
    boxes = instances.pred_boxes.tensor.numpy() * scale
    labels = None
    # Where there is one class, a label would hide the object and say nothing of it.
    if len(instances) <= MAX_LABELLED and class_names is not None and len(class_names) > 1:
        labels = [
            f"{class_names[label]} {score:.0%}"
            for label, score in zip(instances.pred_classes, instances.scores, strict=True)
        ]
    drawn = canvas.overlay_instances(
        masks=masks if masks else None,
        boxes=boxes if len(boxes) else None,
        labels=labels,
        # detectron2's own are random: dark ones vanish, and no two runs draw alike.
        assigned_colors=[COLOURS[index % len(COLOURS)] for index in range(len(instances))],
    )
    return drawn.get_image()


def overview(
    prediction: Prediction, *, min_score: float = 0.5, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """(height, width, 3) uint8: the detections beside the heat map of blocks per token."""
    detections = draw_detections(
        prediction.image, prediction.instances, min_score=min_score, class_names=class_names
    )
    usage = prediction.usage
    heatmap = draw_heatmap(prediction.image, usage, grid=prediction.grid, alpha=0.65)
    count = int((prediction.instances.scores >= min_score).sum())
    share = usage.mean()
    return side_by_side(
        [detections, heatmap],
        [f"{count} detections", f"blocks per token: {share:.0%} of all block runs"],
    )


def write_overview(
    prediction: Prediction,
    path: Path,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> None:
    """`overview` as the file `path`. Raises InputError where it cannot be written."""
    write_image(path, overview(prediction, min_score=min_score, class_names=class_names))


def write_pictures(
    prediction: Prediction,
    folder: Path,
    stem: str,
    *,
    min_score: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """`STEM_detections_heatmap.png` and `STEM_keep_maps.png` in `folder`.

    `STEM_attention.png` besides where the prediction has the class token's attention. Raises
    InputError where they cannot be written.
    """
    image, usage, grid = prediction.image, prediction.usage, prediction.grid
    strip = overview(prediction, min_score=min_score, class_names=class_names)
    pictures = {
        "detections_heatmap": strip,
        "keep_maps": draw_keep_maps(image, usage, grid=grid),
    }
    if prediction.attention is not None:
        pictures["attention"] = draw_attention_maps(image, prediction.attention, grid=grid)
    paths = {folder / f"{stem}_{name}.png": picture for name, picture in pictures.items()}
    for path, picture in paths.items():
        write_image(path, picture)
    return list(paths)
