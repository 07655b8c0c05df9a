"""Run-length encoded masks of COCO annotations (RLE), checked before pycocotools trusts them.

pycocotools' decoder reads beyond the end of a string that ends too early, and fills a mask without
adding up the counts. The encoding is that of pycocotools' `rleToString`: each character is 48 plus
six bits. Five bits belong to the number, low bits first; the sixth says that more characters
follow. The fifth bit of the last character is the sign. From the fourth count on, the text stores
the difference to the count two places before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_NUMBER = 7
"""Most characters of a number: 35 bits, more than any count of an image that fits in memory."""
WRONG_SUM = "with mask runs that do not add up to its image"
WRONG_TEXT = "with mask runs that are no RLE text"


def runs_problem(mask: dict[str, object], height: int, width: int) -> str | None:
    """Why a mask of an image of height x width pixels is unusable; None for no problem.

    The texts of compressed runs are not looked at: `texts_problems` judges many at a time.
    """
    size, counts = mask.get("size"), mask.get("counts")
    if type(size) is not list or [*map(type, size)] != [int, int]:
        return "with a mask whose 'size' is not [height, width]"
    if size != [height, width]:
        return "with a mask of another size than its image"
    if type(counts) is str:
        return None
    if type(counts) is not list or not counts or not {int}.issuperset(map(type, counts)):
        return "with mask runs that are neither text nor a list of whole numbers"
    return None if min(counts) >= 0 and sum(counts) == height * width else WRONG_SUM


def texts_problems(texts: Sequence[str], pixels: Sequence[int]) -> list[str | None]:
    """For each text of compressed runs, why it is unusable; None for a usable text.

    pixels: height * width of the image of each text.
    """
    problems: list[str | None] = [None if t and t.isascii() else WRONG_TEXT for t in texts]
    asked = [index for index, problem in enumerate(problems) if problem is None]
    if asked:
        wrong_text, wrong_sum = _judge(
            [texts[index] for index in asked], np.array([pixels[index] for index in asked])
        )
        for number, index in enumerate(asked):
            if wrong_text[number]:
                problems[index] = WRONG_TEXT
            elif wrong_sum[number]:
                problems[index] = WRONG_SUM
    return problems


def _judge(texts: Sequence[str], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (T,) bool: the text is no RLE; counts are negative or do not add up to `pixels` (T,)."""
    codes = np.frombuffer("".join(texts).encode("ascii"), np.uint8).astype(np.int64) - 48
    lengths = np.array([*map(len, texts)])
    begins = np.cumsum(lengths) - lengths  # the first character of each text
    ends = begins + lengths - 1
    more = (codes & 32) != 0
    wrong_text = more[ends]
    wrong_text |= np.logical_or.reduceat((codes < 0) | (codes > 63), begins)

    # A number begins where a text begins, and after each character that says no more follow.
    first = np.zeros(len(codes), bool)
    first[begins] = True
    first[1:] |= ~more[:-1]
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=len(codes))
    number = np.cumsum(first) - 1  # the number that each character belongs to
    shift = 5 * np.minimum(np.arange(len(codes)) - starts[number], LONGEST_NUMBER)
    values = np.add.reduceat((codes & 31) << shift, starts)
    negative = (codes[starts + sizes - 1] & 16) != 0
    values -= negative.astype(np.int64) << (5 * np.minimum(sizes, LONGEST_NUMBER))
    begin_number = number[begins]
    wrong_text |= np.logical_or.reduceat(sizes > LONGEST_NUMBER, begin_number)

    # Counts are sums over every second number of a text; the first number is a count itself.
    place = np.arange(len(values)) - np.repeat(
        begin_number, np.diff(begin_number, append=len(values))
    )
    counts = np.where(place == 0, values, 0)
    for chain in ((place % 2 == 1), (place % 2 == 0) & (place > 0)):
        running = np.cumsum(np.where(chain, values, 0))
        before = np.repeat(
            running[begin_number] - np.where(chain, values, 0)[begin_number],
            np.diff(begin_number, append=len(values)),
        )
        counts += np.where(chain, running - before, 0)
    wrong_sum = np.minimum.reduceat(counts, begin_number) < 0
    wrong_sum |= np.add.reduceat(counts, begin_number) != pixels
    return wrong_text, wrong_sum
