"""Polygons of COCO annotations: [x, y, x, y, ...] in pixels.

pycocotools walks every outline in steps of a fifth of a pixel and keeps each step in memory,
without a limit. nan, infinity, corners far away and zigzag outlines would use up all memory.
Training has two more such places. detectron2 draws each outline anew in a square of 28 pixels that
stands for the box, so a box that is far smaller than its outline makes a long outline of a short
one. Crops hand each outline to shapely, whose memory grows with the number of crossings.
"""

from __future__ import annotations

import numpy as np

NUMBERS = {int, float}
LONGEST_OUTLINE = 1_000_000
"""Pixels; drawing such an outline takes some 300 MB."""
LONGEST_IN_BOX = 20_000
"""Sides of the object's box; the outlines of COCO's objects have some ten. In the square of 28
pixels, and for a found box of half the size, such an outline has about LONGEST_OUTLINE pixels."""
NARROWEST = 0.1
"""Pixels; detectron2 draws an outline as if no side of its box were shorter."""
MOST_MEETINGS = 50_000
"""Pairs of sides that may meet. Where all of them cross, a crop takes a second and some 100 MB.
Outlines of COCO's objects have up to three such pairs for each corner, and the largest outline has
some thousand corners."""


def polygons_problem(
    polygons: list[list[float]], box: list[float], height: int, width: int, *, evaluated: bool
) -> str | None:
    """Why the polygons of one object in an image of height x width pixels are unusable; or None.

    box: the object's usable box, [left, top, width, height].
    """
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
    return _box_problem(polygons, box, height, width, length) or _meeting_problem(polygons)


def _box_problem(
    polygons: list[list[float]], box: list[float], height: int, width: int, length: float
) -> str | None:
    """Whether the outlines, of at most `length` pixels, are far too long for the object's box."""
    left, top, wide, high = box
    # Training cuts a box at the borders of its image, but not the polygons.
    across = min(left + wide, width) - max(left, 0)
    down = min(top + high, height) - max(top, 0)
    if min(across, down) <= 0:
        return None  # training leaves the object out
    across, down = max(across, NARROWEST), max(down, NARROWEST)
    if length <= LONGEST_IN_BOX * min(across, down):
        return None
    if sum(_outline(each, (across, down)) for each in polygons) <= LONGEST_IN_BOX:
        return None
    return f"with an outline of more than {LONGEST_IN_BOX:,} sides of its box: is the box right?"


def _meeting_problem(polygons: list[list[float]]) -> str | None:
    """Whether the sides of each polygon meet each other so often that a crop would be too dear."""
    numbers = [len(polygon) // 2 for polygon in polygons]
    if sum(corners * (corners - 1) // 2 for corners in numbers) <= MOST_MEETINGS:
        return None
    meetings = 0
    for polygon in polygons:
        meetings += _meetings(polygon)
        if meetings > MOST_MEETINGS:
            return f"with an outline whose sides meet more than {MOST_MEETINGS:,} times"
    return None


def polygons_oddity(polygons: list[list[float]]) -> str | None:
    """What is odd about usable polygons; None for nothing."""
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        return "with a polygon of fewer than three corners, which training leaves out"
    return None


def _corners(polygon: list[float]) -> np.ndarray:
    """(N, 2) float64: x and y of each corner."""
    return np.asarray(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)


def _outline(polygon: list[float], unit: tuple[float, float] = (1, 1)) -> float:
    """Pixels along the closed outline; a diagonal step counts as one pixel.

    unit: the width and the height of a pixel.
    """
    corners = _corners(polygon)
    steps = np.abs(corners - np.roll(corners, 1, axis=0)) / unit
    return float(steps.max(axis=1).sum())


def _meetings(polygon: list[float]) -> int:
    """Number of pairs of sides whose boxes touch; the count may end above MOST_MEETINGS."""
    corners = _corners(polygon)
    other = np.roll(corners, -1, axis=0)
    moved = (corners != other).any(axis=1)
    corners, other = corners[moved], other[moved]
    if len(corners) > MOST_MEETINGS:
        return len(corners)  # each side meets the next one
    low, high = np.minimum(corners, other), np.maximum(corners, other)
    order = np.argsort(low[:, 0])
    (left, top), (right, bottom) = low[order].T.copy(), high[order].T.copy()
    beyond = np.searchsorted(left, right, side="right")  # the first side that begins farther right
    total = 0
    for place, end in enumerate(beyond):
        near = slice(place + 1, end)
        touching = (top[near] <= bottom[place]) & (bottom[near] >= top[place])
        total += int(np.count_nonzero(touching))
        if total > MOST_MEETINGS:
            break
    return total
