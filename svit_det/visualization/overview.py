"""The overview: ground truth (where it is known), detections and heat map, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svit_det.visualization.canvas import captioned, fit, fitting, stack, text_size
from svit_det.visualization.heatmap import draw_heatmap
from svit_det.visualization.object_drawing import draw_objects
from svit_det.visualization.scale import UsageScale
from svit_det.visualization.usage_picture import UsagePicture

PANEL = 720
"""Pixels of the longer side of each picture in the row."""


def counted(number: int, one: str, many: str) -> str:
    """ "1 object", "2 objects"."""
    return f"{number} {one if number == 1 else many}"


def usage_caption(picture: UsagePicture) -> str:
    """In one line: the kept share of all block runs, and that share on and off the detections."""
    words = f"{100 * picture.shares.mean():.0f} % of all block runs"
    if picture.found is not None and len(picture.found):
        inside, outside = picture.split(picture.found).mean(axis=1)
        if np.isfinite(inside) and np.isfinite(outside):
            words += f"; on objects {100 * inside:.0f} %, off {100 * outside:.0f} %"
    return words


def panel_size(image_size: tuple[int, int], *, side: int = PANEL) -> tuple[int, int]:
    """(height, width) of a picture in a row, its longer side `side` pixels."""
    return fitting(image_size, (side, side))


def draw_overview(
    picture: UsagePicture, *, scale: UsageScale | None = None, side: int = PANEL
) -> np.ndarray:
    """A row of captioned pictures: [annotations,] detections, heat map with its colour bar."""
    size = panel_size(picture.size, side=side)
    text = text_size(2 * side)
    panels: list[tuple[np.ndarray, str]] = []
    for objects, one, many in (
        (picture.annotated, "annotated object", "annotated objects"),
        (picture.found, "detection", "detections"),
    ):
        if objects is not None:
            drawn = draw_objects(picture.image, objects, size, text=text)
            panels.append((drawn, counted(len(objects), one, many)))
    if not panels:
        panels.append((fit(picture.image, size), picture.name or "picture"))
    heat = draw_heatmap(picture, size, scale=scale, text=text)
    panels.append((heat, usage_caption(picture)))
    return row([panel for panel, _ in panels], [words for _, words in panels], text=text)


def row(pictures: Sequence[np.ndarray], captions: Sequence[str], *, text: int) -> np.ndarray:
    """Pictures beside each other, each under its caption."""
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions do not pair up.")
    least = 18 * text
    parts = [captioned(p, c, text, least=least) for p, c in zip(pictures, captions, strict=True)]
    return stack(parts, 1, text, margin=text)
