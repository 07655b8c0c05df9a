"""The figures of SViT's supplementary for any model: attention, reuse, and usage heat maps.

Source: Liu et al., Revisiting Token Pruning for Object Detection and Instance Segmentation (WACV
2024), supplementary, figures 2 to 4. The last line of each figure names the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svit_det.visualization.block_maps import (
    fate_legend,
    paint_attention,
    paint_fates,
    tile_rows,
)
from svit_det.visualization.canvas import (
    captioned,
    faded,
    fit,
    fitting,
    label,
    stack,
    text_size,
    text_width,
)
from svit_det.visualization.heatmap import colour_bar, paint_heatmap
from svit_det.visualization.object_drawing import draw_objects
from svit_det.visualization.overview import counted
from svit_det.visualization.scale import UsageScale
from svit_det.visualization.usage_picture import UsagePicture, first_deciding

TILE = 240
"""Pixels of the longer side of one tile."""
PANEL = 420
"""Pixels of the longer side of one tile with detections."""
ATTENTION_COLUMNS = 6


def attention_figure(
    picture: UsagePicture, *, title: str, caption: str, columns: int = ATTENTION_COLUMNS
) -> np.ndarray:
    """Figure 2: what the class token attends to, the first blocks above the last.

    Raises ValueError for a picture without attention.
    """
    if picture.attention is None:
        raise ValueError("This picture has no attention of a class token.")
    size = fitting(picture.size, (TILE, TILE))
    ground = faded(fit(picture.image, size))
    tiles = [paint_attention(ground, picture.grid.to_pixels(w, size)) for w in picture.attention]
    captions = [f"block {layer}" for layer in range(len(tiles))]
    rows, text = tile_rows(tiles, captions, min(columns, len(tiles)))
    return _sheet([label(title, text, rows[0].shape[1]), *rows], caption, text)


def reuse_figure(
    pictures: Sequence[UsagePicture], titles: Sequence[str], *, caption: str
) -> np.ndarray:
    """Figure 3: the tokens that each deciding block keeps, one row of tiles for each model.

    A title names its model. The mean overlap of the sets of consecutive blocks is added to the
    title.
    """
    if not pictures or len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures and {len(titles)} titles do not pair up.")
    first = first_deciding(pictures)
    size = fitting(pictures[0].size, (TILE, TILE))
    rows: list[np.ndarray] = []
    text = text_size(1000)
    for picture, title in zip(pictures, titles, strict=True):
        start = min(first, picture.layers - 1)
        ground = fit(picture.image, size)
        tiles = [
            paint_fates(ground, picture.grid.to_pixels(fates, size))
            for fates in picture.fates[start:]
        ]
        captions = [
            f"block {start + index}: {100 * share:.0f} %"
            for index, share in enumerate(picture.shares[start:])
        ]
        columns = min(len(tiles), 9)
        lines, text = tile_rows(tiles, captions, columns)
        overlap = mean_overlap(picture, picture.first_deciding)
        words = f"{title}: consecutive sets overlap by {100 * overlap:.0f} %"
        rows += [label(words, text + 2, lines[0].shape[1]), *lines]
    if first > 0:
        words = f"Blocks 0 to {first - 1} keep every token." if first > 1 else "Block 0 keeps all."
        rows.append(label(words, text, rows[1].shape[1]))
    rows.append(fate_legend(text, rows[1].shape[1]))
    return _sheet(rows, caption, text)


def mean_overlap(picture: UsagePicture, start: int) -> float:
    """The mean overlap of consecutive blocks: tokens that both kept, over tokens that either kept.

    Blocks count from `start` on.
    """
    one, other = picture.keep[start:-1], picture.keep[start + 1 :]
    both, either = (one & other).sum(axis=(1, 2)), (one | other).sum(axis=(1, 2))
    shares = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float(shares.mean()) if len(shares) else 1.0


def usage_figure(pictures: Sequence[UsagePicture], *, caption: str, columns: int = 2) -> np.ndarray:
    """Figure 4: detections beside the heat map, and the usage on the objects and off them.

    Objects are the detections, as in the paper. All heat maps share one scale.
    """
    if not pictures:
        raise ValueError("A figure needs at least one picture.")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    scale, text = UsageScale.over(pictures), text_size(4 * PANEL)
    cells = []
    for picture in pictures:
        size = fitting(picture.size, (PANEL, PANEL))
        found = picture.found
        drawn = (
            fit(picture.image, size)
            if found is None
            else draw_objects(picture.image, found, size, text=text)
        )
        heat = paint_heatmap(picture, size, scale=scale)
        pair = stack([drawn, heat], 1, text // 3)
        cells.append(captioned(pair, _usage_words(picture), text, least=34 * text))
    rows = [stack(cells[i : i + columns], 1, text) for i in range(0, len(cells), columns)]
    body = stack(rows, 0, text)
    bar = colour_bar(scale, min(len(body), 2 * PANEL), text=text)
    return _sheet([stack([body, bar], 1, text)], caption, text)


def _usage_words(picture: UsagePicture) -> str:
    words = f"all tokens {100 * picture.shares.mean():.0f} %"
    if picture.found is not None:
        on, off = (100 * picture.split(picture.found)).mean(axis=1)
        number = counted(len(picture.found), "object", "objects")
        if np.isfinite(on):
            words = f"{number}: foreground {on:.0f} %, background {off:.0f} %, {words}"
        else:
            words = f"{number}: background {off:.0f} %"
    return words


def _sheet(rows: Sequence[np.ndarray], caption: str, text: int) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return stack([*rows, *_wrapped(caption, text, width)], 0, text, margin=text)


def _wrapped(words: str, text: int, width: int) -> list[np.ndarray]:
    """A caption in lines that are at most `width` pixels wide."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, text) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [stack([label(line, text, width) for line in lines], 0, text // 4)] if lines else []
