"""Polygons of COCO annotations: [x, y, x, y, ...] in pixels.

pycocotools walks every outline in steps of a fifth of a pixel and keeps each step in memory,
without a limit. nan, infinity, corners far away and zigzag outlines would use up all memory.
"""

from __future__ import annotations

import numpy as np

NUMBERS = {int, float}
LONGEST_OUTLINE = 1_000_000
"""Pixels; drawing such an outline takes some 300 MB."""


def polygons_problem(
    polygons: list[list[float]], height: int, width: int, *, evaluated: bool
) -> str | None:
    """Why the polygons of one object in an image of height x width pixels are unusable; or None."""
    side = max(height, width)
    length = 0.0
    whole = 0
    for polygon in polygons:
        if type(polygon) is not list or not NUMBERS.issuperset(map(type, polygon)):
            return "with a polygon that is not a list of numbers"
        if not polygon:
            continue
        low, high = min(polygon), max(polygon)
        # The sum is nan or infinite if any number is; the least and largest may overlook a nan.
        if not (low > -1e15 and high < 1e15 and -1e18 < sum(polygon) < 1e18):
            return "with nan, infinity or an absurd number in a polygon"
        if low < -side or high > 2 * side:
            return "with a polygon that reaches far beyond its image"
        most = (len(polygon) // 2 + 1) * (high - low)
        length += most if length + most <= LONGEST_OUTLINE else _outline(polygon)
        if length > LONGEST_OUTLINE:
            return f"with an outline of more than {LONGEST_OUTLINE:,} pixels"
        whole += len(polygon) >= 6 and len(polygon) % 2 == 0
    if not whole:
        return "without one polygon of three corners or more"
    if evaluated and len(polygons[0]) < 6:
        # pycocotools looks at the first polygon alone: if it has four numbers, all count as boxes.
        return "whose first polygon has fewer than three corners, which no evaluation can read"
    return None


def polygons_oddity(polygons: list[list[float]]) -> str | None:
    """What is odd about usable polygons; None for nothing."""
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        return "with a polygon of fewer than three corners, which training leaves out"
    return None


def _outline(polygon: list[float]) -> float:
    """Pixels along the closed outline; a diagonal step counts as one pixel."""
    corners = np.asarray(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
    steps = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
    return float(steps.sum())
