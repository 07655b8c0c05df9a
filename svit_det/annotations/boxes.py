"""Boxes of COCO annotations: [left, top, width, height] in pixels."""

from __future__ import annotations

NUMBERS = (int, float)
OVERHANG = 2.0
"""Pixels that a box may reach beyond its image without a warning: some tools round outwards."""


def box_problem(box: object, height: int, width: int) -> str | None:
    """Why a box in an image of height x width pixels cannot be used; None for a usable box.

    A box without size is usable: COCO's own files have such boxes. Training leaves them out, and
    the evaluation counts them as every COCO evaluation does.
    """
    if type(box) is not list or len(box) != 4 or any(type(part) not in NUMBERS for part in box):
        return "with a 'bbox' that is not four numbers"
    left, top, wide, high = box
    # The comparison is False for nan; an integer of any size may be compared with a float.
    if not all(-1e15 < part < 1e15 for part in box):
        return "with nan, infinity or an absurd number in 'bbox'"
    if wide < 0 or high < 0:
        return "with a box of negative size"
    right, bottom = left + wide, top + high
    if left < -width or top < -height or right > 2 * width or bottom > 2 * height:
        return "with a box that reaches far beyond its image"
    if wide and high and (left >= width or top >= height or right <= 0 or bottom <= 0):
        return "with a box outside its image"
    return None


def box_oddity(box: list[float], height: int, width: int) -> str | None:
    """What is odd about a usable box; None for nothing."""
    left, top, wide, high = box
    if wide == 0 or high == 0:
        return "with a box without size, which training leaves out"
    over = max(-left, -top, left + wide - width, top + high - height)
    if over > OVERHANG:
        return "with a box that reaches beyond its image: is it [left, top, width, height]?"
    return None
