"""What the class token attends to, block by block, one model above another on the same picture.

Source of the layout: SViT, supplementary, figure 2. The first six blocks of a model lie in one row,
the last six in the next row.

L blocks    H, W token grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from svit_det.tokens import TokenGrid
from svit_det.visualization.canvas import (
    INK,
    WHITE,
    blend,
    captioned,
    check_image,
    faded,
    fit,
    label,
    stack,
    text_width,
)
from svit_det.visualization.heatmap import draw_heatmap
from svit_det.visualization.scale import plasma
from svit_det.visualization.usage_picture import UsagePicture

TILE = 224
"""Pixels of a block's tile, a multiple of a 16 x 16 grid."""
TEXT, TITLE, GAP = 17, 24, 10
ALPHA = 0.68
"""The colour's share; the rest is the picture in grey."""
PALE = 0.82
"""White's share over a token that was skipped."""
BRIGHTEST = 0.012
"""Share of a picture's tokens that get a block's brightest colour, 3 of 256. In large ViTs single
tokens take most of the attention, and would leave all other tokens dark."""


@dataclass(frozen=True, kw_only=True)
class AttentionPanel:
    """One model on one picture."""

    title: str
    attention: np.ndarray
    """(L, H, W) weights, mean over heads; 0 for a token that is no key."""
    keys: np.ndarray
    """(L, H, W) bool: the token was a key."""
    class_token: np.ndarray
    """(L,) bool: the block ran the class token, whose attention had an effect."""

    def __post_init__(self) -> None:
        if self.attention.ndim != 3 or self.attention.shape != self.keys.shape:
            raise ValueError(
                f"attention and keys must be (L, H, W), not {self.attention.shape} and "
                f"{self.keys.shape}."
            )
        if len(self.class_token) != len(self.attention):
            raise ValueError(f"{len(self.class_token)} is not a class token for each block.")


def draw_attention_figure(
    image: np.ndarray,
    panels: Sequence[AttentionPanel],
    *,
    grid: TokenGrid,
    caption: str,
    columns: int = 6,
) -> np.ndarray:
    """The panels one below the other, each with its blocks in rows of `columns` tiles.

    image: (h, w, 3) uint8 RGB, as the network sees it. The image stands beside the first panel; a
    map of the number of blocks that kept each token stands beside every other panel. A skipped
    token is nearly white. The colours of each block run from 0 to its own brightest tokens.
    """
    check_image(image)
    grey = faded(fit(image, (TILE, TILE)))
    side = 2 * TILE + TEXT + 2 * GAP
    photograph = captioned(fit(image, (side, side)), "what the network sees", TEXT)
    beside = [
        stack([photograph, _legend(side)], 0, GAP),
        *(_usage(p, image, grid, side) for p in panels[1:]),
    ]
    rows = [
        stack([_as_wide(left, side), _panel(panel, grey, grid, columns)], 1, 2 * GAP)
        for left, panel in zip(beside, panels, strict=True)
    ]
    body = stack(rows, 0, 3 * GAP)
    words = paragraph(caption, TEXT, body.shape[1])
    return stack([body, words], 0, 2 * GAP, margin=2 * GAP)


def _usage(panel: AttentionPanel, image: np.ndarray, grid: TokenGrid, side: int) -> np.ndarray:
    """The number of blocks in which each token was a key, over the picture."""
    usage = UsagePicture(image=image, keep=panel.keys, grid=grid)
    height = side - 6 * TEXT
    heat = draw_heatmap(usage, (height, height), text=TEXT)
    return captioned(heat, "blocks that kept each token", TEXT)


def _as_wide(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture on white, exactly `width` pixels wide, so that columns line up."""
    return stack([picture[:, :width]], 0, 0, least=width)[:, :width]


def _panel(panel: AttentionPanel, grey: np.ndarray, grid: TokenGrid, columns: int) -> np.ndarray:
    tiles = []
    for layer, weights in enumerate(panel.attention):
        keys = panel.keys[layer]
        if panel.class_token[layer]:
            tile = paint_block(grey, weights, keys, grid)
            words = f"block {layer}" + ("" if keys.all() else f": {100 * keys.mean():.0f} % kept")
        else:
            tile = paint_block(grey, np.zeros_like(weights), np.zeros_like(keys), grid)
            words = f"block {layer}: no class token"
        tiles.append(captioned(tile, words, TEXT))
    rows = [stack(tiles[i : i + columns], 1, GAP) for i in range(0, len(tiles), columns)]
    return stack([label(panel.title, TITLE, rows[0].shape[1]), *rows], 0, GAP)


def paint_block(
    grey: np.ndarray, weights: np.ndarray, keys: np.ndarray, grid: TokenGrid
) -> np.ndarray:
    """(h, w, 3): weights (H, W) in colour over grey (h, w, 1); tokens that are no key are pale."""
    size = (grey.shape[0], grey.shape[1])
    steps = (255 * weights / _peak(weights, keys)).clip(0, 255).round().astype(np.uint8)
    coloured = blend(grey, plasma()[grid.to_pixels(steps, size)], ALPHA)
    pale = blend(grey, np.array(WHITE, np.float32), PALE)
    return np.where(grid.to_pixels(keys, size)[..., None], coloured, pale)


def _peak(weights: np.ndarray, keys: np.ndarray) -> float:
    """The weight that gets the brightest colour; its rank does not depend on the number of keys."""
    ranked = np.sort(weights[keys])
    if not len(ranked):
        return 1.0
    rank = min(max(1, round(BRIGHTEST * weights.size)), len(ranked))
    return max(float(ranked[-rank]), 1e-12)


def _legend(width: int) -> np.ndarray:
    """The colours with their meaning."""
    bar = np.tile(plasma()[np.linspace(0, 255, width).astype(int)], (TEXT, 1, 1))
    bar = blend(np.full((1, 1, 1), 128.0), bar, ALPHA)
    ends = [label("no attention", TEXT, width), label("the block's most", TEXT, width)]
    space = max(1, width - sum(end.shape[1] for end in ends))
    line = np.full((ends[0].shape[0], space, 3), 255, np.uint8)
    swatch = blend(np.full((TEXT, 2 * TEXT, 1), 128.0), np.array(WHITE, np.float32), PALE)
    swatch = cv2.rectangle(np.ascontiguousarray(swatch), (0, 0), (2 * TEXT - 1, TEXT - 1), INK, 1)
    skipped = stack([swatch, label("skipped: no key of this block", TEXT, width)], 1, GAP)
    return stack([bar, stack([ends[0], line, ends[1]], 1, 0), skipped], 0, GAP)


def paragraph(text: str, size: int, room: int) -> np.ndarray:
    """Text in lines that are at most `room` pixels wide."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return stack([label(line, size, room) for line in lines or [""]], 0, size // 4)
