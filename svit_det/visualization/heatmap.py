"""The heat map: over the picture, the number of blocks that each token went through."""

from __future__ import annotations

import numpy as np

from svit_det.visualization.canvas import blend, check_image, faded, fit, label, stack, text_width
from svit_det.visualization.scale import UsageScale
from svit_det.visualization.usage_picture import UsagePicture

ALPHA = 0.65
"""The scale's share of the colour; the rest is the picture in grey."""


def paint_heatmap(
    picture: UsagePicture,
    size: tuple[int, int],
    *,
    scale: UsageScale | None = None,
    alpha: float = ALPHA,
) -> np.ndarray:
    """(height, width, 3) of `size`: the picture in grey under the colours of its tokens.

    scale: by default the range of numbers that occur in this picture.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, not be {alpha}.")
    check_image(picture.image)
    scale = scale or UsageScale.over([picture])
    colours = scale.paint(picture.depth)
    pixels = np.stack([picture.grid.to_pixels(colours[..., c], size) for c in range(3)], axis=-1)
    return blend(faded(fit(picture.image, size)), pixels, alpha)


def colour_bar(
    scale: UsageScale, height: int, *, text: int, alpha: float = ALPHA, title: bool = True
) -> np.ndarray:
    """One swatch per number of blocks, the largest on top, with numbers of `text` pixels beside.

    The swatches show the colours over medium grey, as they look in the heat map.
    """
    swatches, count = blend(np.full(3, 128.0), scale.colours, alpha), scale.count
    rows = np.minimum(np.arange(height) * count // height, count - 1)
    bar = np.repeat(swatches[::-1][rows][:, None], text, axis=1)
    room = 3 * text
    numbers = np.full((height, 2 * text, 3), 255, np.uint8)
    # Both ends are always shown; between them, every number that has room above and below.
    step = max(1, -(-int(1.5 * text) * count // height))
    shown = [count - 1, *range(count - 1 - step, step - 1, -step), 0] if count > 1 else [0]
    for index in shown:
        line = label(str(scale.low + index), text, room)[:height, : numbers.shape[1]]
        top = round((count - index - 0.5) * height / count) - len(line) // 2
        top = min(max(0, top), height - len(line))
        numbers[top : top + len(line), : line.shape[1]] = line
    parts = [bar, numbers]
    if title:
        words = f"blocks per token, of {scale.layers}"
        words = words if text_width(words, text) <= height else "blocks"
        turned = np.rot90(label(words, text, max(height, 4 * text)))[:height]
        above = (height - len(turned)) // 2
        below = height - len(turned) - above
        parts.append(np.pad(turned, ((above, below), (0, 0), (0, 0)), constant_values=255))
    return stack(parts, 1, text // 3)


def draw_heatmap(
    picture: UsagePicture,
    size: tuple[int, int],
    *,
    scale: UsageScale | None = None,
    alpha: float = ALPHA,
    text: int = 14,
) -> np.ndarray:
    """The heat map of `size` = (height, width) pixels, with a colour bar beside it."""
    scale = scale or UsageScale.over([picture])
    heat = paint_heatmap(picture, size, scale=scale, alpha=alpha)
    bar = colour_bar(scale, max(size[0], 8 * text), text=text, alpha=alpha)
    return stack([heat, bar], 1, text // 2)
