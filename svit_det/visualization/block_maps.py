"""One small captioned tile per block: keep maps, and maps of the class token's attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svit_det.visualization.canvas import (
    MAX_SIDE,
    blend,
    captioned,
    faded,
    fit,
    fitting,
    label,
    stack,
    text_size,
)
from svit_det.visualization.scale import plasma
from svit_det.visualization.usage_picture import FATES, UsagePicture

# Blue, orange and green differ for every common kind of colour blindness, on black and on white.
TINTS = np.array([(0, 0, 0), (0, 200, 140), (215, 118, 0), (15, 55, 120)], np.float32)
TINT_SHARES = np.array([0.0, 0.45, 0.7, 0.8], np.float32)
"""Share of the tint in each fate's colour; kept tokens are not tinted."""
MIN_TILE = 224
"""Pixels; a narrower tile has no room for its caption."""


def paint_fates(image: np.ndarray, fates: np.ndarray) -> np.ndarray:
    """The image (h, w, 3), tinted by the fates (h, w) of its pixels."""
    return blend(image, TINTS[fates], TINT_SHARES[fates][..., None])


def fate_legend(text: int, room: int) -> np.ndarray:
    """A swatch of each fate with its words, in lines that are at most `room` pixels wide."""
    lines: list[list[np.ndarray]] = [[]]
    for fate, words in enumerate(FATES):
        line = label(words, text, room - 3 * text)
        ground = np.full((len(line), 2 * text, 3), 190, np.uint8)
        swatch = paint_fates(ground, np.full(ground.shape[:2], fate))
        entry = stack([swatch, line], 1, text // 2)
        used = sum(each.shape[1] + 2 * text for each in lines[-1])
        if lines[-1] and used + entry.shape[1] > room:
            lines.append([])
        lines[-1].append(entry)
    return stack([stack(line, 1, 2 * text) for line in lines], 0, text // 2)


def draw_keep_maps(
    picture: UsagePicture, *, columns: int = 3, all_blocks: bool = False
) -> np.ndarray:
    """One tile per block from the first deciding block, in reading order, with a legend below.

    `all_blocks` shows the blocks before it too. A row holds at most `columns` tiles, and fewer if
    these would be too narrow for a caption. A caption's share counts all tokens of the image.
    """
    first = 0 if all_blocks or picture.first_deciding == picture.layers else picture.first_deciding
    captions = [
        f"block {layer}: {100 * share:.0f} % kept"
        for layer, share in enumerate(picture.shares)
        if layer >= first
    ]
    size, columns = tile_size(picture.size, len(captions), columns)
    image = fit(picture.image, size)
    tiles = [
        paint_fates(image, picture.grid.to_pixels(fates, size)) for fates in picture.fates[first:]
    ]
    rows, text = tile_rows(tiles, captions, columns)
    width = rows[0].shape[1]
    if first:
        words = f"Blocks 0 to {first - 1} keep every token." if first > 1 else ""
        rows.append(label(words or "Block 0 keeps every token.", text, width))
    rows.append(fate_legend(text, width))
    return stack(rows, 0, text, margin=text)


def draw_attention_maps(picture: UsagePicture, *, columns: int = 4) -> np.ndarray:
    """One tile per block: what the class token attends to, each tile scaled to its own maximum.

    A caption states the sum of the weights; the class token spends the rest on extra tokens, itself
    among them. Raises ValueError for a picture without attention.
    """
    if picture.attention is None:
        raise ValueError("This picture has no attention of a class token.")
    size, columns = tile_size(picture.size, picture.layers, columns)
    image, tiles, captions = faded(fit(picture.image, size)), [], []
    for layer, weights in enumerate(picture.attention):
        tiles.append(paint_attention(image, picture.grid.to_pixels(weights, size)))
        captions.append(f"block {layer}: {100 * weights.sum():.0f} % on patches")
    rows, text = tile_rows(tiles, captions, columns)
    return stack(rows, 0, text, margin=text)


def paint_attention(grey: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(h, w, 3): weights (h, w) in colour, bright where they are largest, over (h, w, 1) grey."""
    peak = max(float(weights.max()), float(np.finfo(np.float32).tiny))
    return blend(grey, plasma()[(255 * weights / peak).round().astype(np.uint8)], 0.65)


def tile_size(image_size: tuple[int, int], count: int, columns: int) -> tuple[tuple[int, int], int]:
    """((height, width) of a tile, tiles in a row), so that `count` tiles fit within MAX_SIDE."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    columns = min(columns, count, MAX_SIDE // MIN_TILE)
    room = (MAX_SIDE // -(-count // columns), min(MAX_SIDE // columns, 480))
    return fitting(image_size, room), columns


def tile_rows(
    tiles: Sequence[np.ndarray], captions: Sequence[str], columns: int
) -> tuple[list[np.ndarray], int]:
    """Captioned tiles in rows, and the height of their captions' letters."""
    slot = max(tiles[0].shape[1], MIN_TILE)
    text = min(text_size(columns * slot), text_size(4 * slot))
    each = [captioned(t, c, text, least=slot) for t, c in zip(tiles, captions, strict=True)]
    return [stack(each[i : i + columns], 1, text) for i in range(0, len(each), columns)], text
