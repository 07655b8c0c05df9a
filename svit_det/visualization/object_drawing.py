"""Objects drawn onto a picture: masks, boxes, and class names where labels have room."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from svit_det.visualization.canvas import blend, check_image, fit, label
from svit_det.visualization.objects import Objects

MAX_LABELLED = 15
"""With more objects than this, labels would hide the picture."""
FEW = 8
"""Up to this number, classes get colours of Okabe and Ito, which colour-blind readers can tell
apart."""
_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
)


def class_colour(number: int, *, of: int) -> tuple[int, int, int]:
    """RGB of the class `number`, one of `of` classes; the same in every picture.

    Where all objects are of one class, `number` is the object's.
    """
    if of <= FEW:
        return _OKABE_ITO[number % FEW]
    # Steps of the golden angle keep neighbouring hues apart; two levels of lightness double them.
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1, (0.6, 0.45)[number % 2], 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def object_colours(objects: Objects) -> list[tuple[int, int, int]]:
    """The colour of each object's class; with one class only, each object has its own colour."""
    classes = max(len(objects.names), int(objects.classes.max(initial=-1)) + 1)
    if classes <= 1:
        return [class_colour(index % 7, of=7) for index in range(len(objects))]
    return [class_colour(int(number), of=classes) for number in objects.classes]


def labels_of(objects: Objects) -> list[str]:
    """Class and score of each object; empty texts for many objects, or for a single class."""
    if len(objects) > MAX_LABELLED or len(objects.names) < 2:
        return [""] * len(objects)
    scores = [""] * len(objects)
    if objects.scores is not None:
        scores = [f" {100 * score:.0f} %" for score in objects.scores]
    return [objects.name(index) + scores[index] for index in range(len(objects))]


def draw_objects(
    image: np.ndarray, objects: Objects, size: tuple[int, int], *, text: int = 14
) -> np.ndarray:
    """(height, width, 3) of `size` with every mask tinted and outlined, or boxed without masks.

    Labels, `text` pixels high, lie above their objects on plates of the object's colour. Large
    objects are drawn first, so that they do not hide small objects.
    """
    check_image(image)
    drawn = fit(image, size).copy()
    across, down = size[1] / image.shape[1], size[0] / image.shape[0]
    colours, line = object_colours(objects), max(1, round(max(size) / 500))
    boxes = (objects.boxes * (across, down, across, down)).round().astype(int)
    spans = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.argsort(-spans, kind="stable")
    for index in order:
        _draw_shape(drawn, objects, int(index), boxes[index], colours[index], line)
    for index in order:
        _draw_label(drawn, labels_of(objects)[index], boxes[index], colours[index], text)
    return drawn


def _draw_shape(
    drawn: np.ndarray,
    objects: Objects,
    index: int,
    box: np.ndarray,
    colour: tuple[int, int, int],
    line: int,
) -> None:
    if objects.masks is None:
        cv2.rectangle(drawn, tuple(map(int, box[:2])), tuple(map(int, box[2:])), colour, line + 1)
        return
    mask = objects.masks[index].astype(np.float32)
    height, width = drawn.shape[:2]
    inside = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    drawn[inside] = blend(drawn[inside], np.array(colour), 0.4)
    outlines, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    # A bright line over a wider dark line can be seen on any ground.
    cv2.drawContours(drawn, outlines, -1, (20, 20, 20), line + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, outlines, -1, colour, line, cv2.LINE_AA)


def _draw_label(
    drawn: np.ndarray, words: str, box: np.ndarray, colour: tuple[int, int, int], text: int
) -> None:
    if not words:
        return
    height, width = drawn.shape[:2]
    bright = np.dot(colour, (0.299, 0.587, 0.114)) > 130
    plate = label(
        words, text, width - 6, ink=(16, 16, 16) if bright else (255, 255, 255), paper=colour
    )
    plate = cv2.copyMakeBorder(plate, 0, 0, 3, 3, cv2.BORDER_CONSTANT, value=colour)
    plate = plate[:height, :width]
    left = int(np.clip(box[0], 0, width - plate.shape[1]))
    above = box[1] - len(plate)
    top = int(np.clip(above if above >= 0 else box[1], 0, height - len(plate)))
    drawn[top : top + len(plate), left : left + plate.shape[1]] = plate
