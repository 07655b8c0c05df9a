"""The layers over a photograph on the page: tiny pictures with one pixel per token, and outlines.

H, W token grid    h, w pixels of the picture
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from markupsafe import Markup

from svit_det.tokens import TokenGrid
from svit_det.visualization import Objects, UsagePicture, UsageScale
from svit_det.visualization.block_maps import TINT_SHARES, TINTS
from svit_det.visualization.canvas import encode, fit, fitting
from svit_det.visualization.object_drawing import labels_of, object_colours
from svit_det.visualization.objects import size_of

PHOTO_SIDE = 800
"""Pixels of the longer side of a photograph in the page; smaller photographs are not resized."""
MAX_OBJECTS = 100
"""Objects that are outlined and listed, the best scores first."""
RETURNED = (0, 200, 140)


@dataclass(frozen=True, kw_only=True)
class ObjectLine:
    """One object in the list below a picture."""

    name: str
    score: float | None
    size: str
    kept: float


def photo(picture: UsagePicture) -> str:
    """The picture as a data: address, JPEG."""
    size = picture.size
    if max(size) > PHOTO_SIDE:
        size = fitting(size, (PHOTO_SIDE, PHOTO_SIDE))
    return _address("jpeg", encode(".jpg", fit(picture.image, size)))


def overlay_style(grid: TokenGrid) -> str:
    """CSS that lays an overlay of (H, W) pixels over the image; its last tokens may stick out."""
    (rows, columns), (height, width) = grid.shape, grid.input_size
    across, down = (
        100 * count * grid.patch_size / side for count, side in ((columns, width), (rows, height))
    )
    return f"width:{across:.4f}%;height:{down:.4f}%"


def heat_overlay(picture: UsagePicture, scale: UsageScale) -> str:
    """One pixel per token in the colours of the scale, as a data: address."""
    return _tokens(scale.paint(picture.depth))


def fate_overlays(picture: UsagePicture) -> list[str]:
    """One overlay per block: kept tokens are clear, other tokens are tinted by their fate."""
    alpha = (255 * TINT_SHARES).round()
    colours = np.concatenate([TINTS, alpha[:, None]], axis=1).astype(np.uint8)
    return [_tokens(colours[fates]) for fates in picture.fates]


def return_overlay(picture: UsagePicture) -> str:
    """Reactivated tokens; tokens that were reactivated more often are less transparent."""
    most = max(int(picture.returns.max()), 1)
    colours = np.zeros((most + 1, 4), np.uint8)
    colours[1:, :3] = RETURNED
    colours[1:, 3] = np.linspace(90, 235, most).round() if most > 1 else 200
    return _tokens(colours[picture.returns])


def outlines(objects: Objects, size: tuple[int, int]) -> Markup:
    """SVG shapes of the objects in the picture's pixels, titled by class and score."""
    objects = best(objects)
    width, line = size[1], max(size) / 320
    parts, labels = [], labels_of(objects)
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in object_colours(objects)]
    for index in range(len(objects)):
        score = "" if objects.scores is None else f" {100 * objects.scores[index]:.0f} %"
        parts.append(
            Markup(
                '<path d="{}" fill="{}" fill-opacity=".3" stroke="{}" stroke-width="{:.2f}">'
                "<title>{}</title></path>"
            ).format(
                _path(objects, index, line / 4),
                colours[index],
                colours[index],
                line,
                objects.name(index) + score,
            )
        )
    text = max(size) / 36
    for index, words in enumerate(labels):
        if words:
            left, top = objects.boxes[index, :2]
            parts.append(
                Markup(
                    '<text x="{:.1f}" y="{:.1f}" font-size="{:.1f}" stroke-width="{:.1f}">{}</text>'
                ).format(min(left, 0.8 * width), max(top - text / 4, text), text, text / 5, words)
            )
    return Markup("").join(parts)


def object_lines(picture: UsagePicture, objects: Objects) -> list[ObjectLine]:
    """The objects as a list of text."""
    objects = best(objects)
    usage = picture.object_usage(objects).mean(axis=1)
    return [
        ObjectLine(
            name=objects.name(index),
            score=None if objects.scores is None else float(objects.scores[index]),
            size=size_of(int(area)),
            kept=float(usage[index]),
        )
        for index, area in enumerate(objects.areas(picture.size))
    ]


def best(objects: Objects) -> Objects:
    """The `MAX_OBJECTS` objects with the highest scores, or all where there are fewer."""
    if len(objects) <= MAX_OBJECTS:
        return objects
    scores = np.zeros(len(objects)) if objects.scores is None else objects.scores
    return objects.pick(np.sort(np.argsort(-scores, kind="stable")[:MAX_OBJECTS]))


def _path(objects: Objects, index: int, tolerance: float) -> str:
    if objects.masks is None:
        left, top, right, bottom = objects.boxes[index].round(1)
        return f"M{left} {top}H{right}V{bottom}H{left}Z"
    mask = np.ascontiguousarray(objects.masks[index], np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lines = [cv2.approxPolyDP(each, tolerance, True).reshape(-1, 2) for each in found]
    return "".join(_polygon(line) for line in lines)


def _polygon(corners: Sequence[Sequence[int]] | np.ndarray) -> str:
    # A contour runs through the middles of pixels.
    return "M" + "L".join(f"{x + 0.5:.1f} {y + 0.5:.1f}" for x, y in corners) + "Z"


def _tokens(colours: np.ndarray) -> str:
    """(H, W, 3 or 4) uint8 -> the address of a PNG of H x W pixels."""
    if colours.shape[-1] == 4:
        colours = cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGBA2BGRA)
        data = cv2.imencode(".png", colours)[1].tobytes()
        return _address("png", data)
    return _address("png", encode(".png", colours))


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
