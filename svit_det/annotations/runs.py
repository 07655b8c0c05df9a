"""Run-length encoded masks of COCO annotations (RLE), checked before pycocotools trusts them.

Its decoder follows a string that ends too early beyond its end, and fills a mask by counts that
nobody has added up. The encoding is that of pycocotools' `rleToString`: 5 bits a character, from
48 on, low bits first; bit 6 says that more follow, bit 5 of the last is the sign; from the fourth
count on, the difference to the count before the last is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_NUMBER = 7
"""Characters: 35 bits, more than any count of an image that fits in memory."""
WRONG_SUM = "with mask runs that do not add up to its image"
WRONG_TEXT = "with mask runs that are no RLE text"


def runs_problem(mask: dict[str, object], height: int, width: int) -> str | None:
    """Why a mask of an image of height x width pixels cannot be used, but for the text of its runs.

    `texts_problems` looks at those, many at a time.
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
    """Why compressed runs cannot be used; None for each that can.

    pixels: height * width of each one's image.
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
    """(T,) bool each: no RLE text; counts that are negative or do not add up to `pixels` (T,)."""
    codes = np.frombuffer("".join(texts).encode("ascii"), np.uint8).astype(np.int64) - 48
    lengths = np.array([*map(len, texts)])
    begins = np.cumsum(lengths) - lengths  # of the texts, in characters
    ends = begins + lengths - 1
    more = (codes & 32) != 0
    wrong_text = more[ends]
    wrong_text |= np.logical_or.reduceat((codes < 0) | (codes > 63), begins)

    # Numbers: each begins where a text begins and after each character that says no more follow.
    first = np.zeros(len(codes), bool)
    first[begins] = True
    first[1:] |= ~more[:-1]
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=len(codes))
    number = np.cumsum(first) - 1  # of each character
    shift = 5 * np.minimum(np.arange(len(codes)) - starts[number], LONGEST_NUMBER)
    values = np.add.reduceat((codes & 31) << shift, starts)
    negative = (codes[starts + sizes - 1] & 16) != 0
    values -= negative.astype(np.int64) << (5 * np.minimum(sizes, LONGEST_NUMBER))
    begin_number = number[begins]
    wrong_text |= np.logical_or.reduceat(sizes > LONGEST_NUMBER, begin_number)

    # Counts: sums along every second number of a text, the first number aside.
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
