"""Which tokens each block processed, drawn over the image.

L blocks    H, W token grid of the unpadded image    h, w pixels of the image that is drawn on

`keep` is (L, H, W) bool; row l marks the tokens that block l processed, counted from 0. `grid` says
which pixels of the network's input, in general a resized `image`, each token stands for.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from svit_det.files import write_whole
from svit_det.tokens import TokenGrid

KEPT, USED_LATER, SKIPPED_FOR_GOOD = range(3)
_WORDS = ("kept, untinted", "skipped, used later", "skipped for good")
# Blue and orange stay apart for every common kind of colour blindness, and on black as on white.
_TINTS = np.array([(0, 0, 0), (215, 118, 0), (15, 55, 120)], np.float32)
_TINT_SHARES = np.array([0.0, 0.7, 0.8], np.float32)
_MIN_WIDTH, _MIN_TILE, _MAX_SIDE = 512, 224, 2048  # pixels; below the first two, text has no room
_FONT, _INK = cv2.FONT_HERSHEY_SIMPLEX, (32, 32, 32)


def depth_map(keep: np.ndarray) -> np.ndarray:
    """Counts the blocks that processed each token: (L, H, W) bool -> (H, W) int."""
    _check_keep(keep)
    return keep.sum(axis=0)


def token_fates(keep: np.ndarray) -> np.ndarray:
    """(L, H, W) int: KEPT, USED_LATER (skipped, but a later block uses it) or SKIPPED_FOR_GOOD."""
    _check_keep(keep)
    used_from_here_on = np.logical_or.accumulate(keep[::-1], axis=0)[::-1]
    return np.where(keep, KEPT, np.where(used_from_here_on, USED_LATER, SKIPPED_FOR_GOOD))


def draw_heatmap(
    image: np.ndarray,
    keep: np.ndarray,
    *,
    grid: TokenGrid,
    alpha: float = 0.5,
    lowest: int = 0,
) -> np.ndarray:
    """Colours each token by the number of blocks that processed it, with a colour bar beside.

    The scale runs from `lowest` (0, or the number of blocks that never skip) to L whatever `keep`
    holds, so that two pictures can be compared. image: (h, w, 3) RGB uint8, enlarged below 512
    pixels of width, shrunk above 2048 on either side; `alpha`: the share of the scale's colour.
    """
    _check_image(image)
    depth, layers = depth_map(keep), len(keep)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, not be {alpha}.")
    if not 0 <= lowest <= min(depth.min(), layers - 1):
        raise ValueError(f"lowest={lowest} is not a number of blocks that processed every token.")
    steps = np.linspace(0, 255, layers - lowest + 1).round().astype(np.uint8)
    colours = cv2.applyColorMap(steps, cv2.COLORMAP_PLASMA).reshape(-1, 3)[:, ::-1]

    image = _fit(image, _MIN_WIDTH, _MAX_SIDE, _MAX_SIDE)
    pixels = grid.to_pixels(depth - lowest, image.shape[:2])
    picture = _blend(_faded(image), colours[pixels], alpha)
    size = _text_size(max(picture.shape))
    # The bar shows what the colours become over medium grey, as that is how the picture has them.
    swatches = _blend(np.full(3, 128.0), colours, alpha)
    bar = _colour_bar(swatches, lowest=lowest, height=max(len(picture), 10 * size), size=size)
    return _stack([picture, bar], 1, size)


def draw_keep_maps(
    image: np.ndarray, keep: np.ndarray, *, grid: TokenGrid, columns: int = 4
) -> np.ndarray:
    """One captioned tile per block, in reading order: kept tokens as they are, the others tinted.

    image: (h, w, 3) RGB uint8; `columns` is the most tiles in a row, fewer where they would be too
    narrow to carry a caption. The share in a caption counts all tokens of the unpadded image.
    """
    _check_image(image)
    fates = token_fates(keep)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    captions = [f"block {i}  kept {100 * kept.mean():.0f} %" for i, kept in enumerate(keep)]
    rows, size = _tile_rows(image, fates, captions, _tint, columns, grid)
    legend = []
    for fate, word in enumerate(_WORDS):
        label = _label(word, size, _MAX_SIDE)
        swatch = np.full((len(label), 2 * size, 3), 160, np.uint8)
        legend.append(_stack([_tint(swatch, np.full(swatch.shape[:2], fate)), label], 1, size // 2))
    rows.append(_stack(legend, 1, 2 * size))
    return _stack(rows, 0, size, margin=size)


def draw_attention_maps(
    image: np.ndarray, attention: np.ndarray, *, grid: TokenGrid, columns: int = 4
) -> np.ndarray:
    """One captioned tile per block: what the class token looks at, each tile to its own maximum.

    image: (h, w, 3) RGB uint8; attention: (L, H, W) weights, whose sum a caption states (the rest
    is what the class token spends on itself); `columns` as in `draw_keep_maps`.
    """
    _check_image(image)
    if attention.ndim != 3 or attention.size == 0 or not (attention >= 0).all():
        raise ValueError(f"attention must be (L, H, W) weights, not of shape {attention.shape}.")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    peaks = np.maximum(attention.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    steps = (255 * attention / peaks).round().astype(np.uint8)
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_PLASMA)
    colours = scale.reshape(-1, 3)[:, ::-1]
    captions = [
        f"block {layer}  {100 * each.sum():.0f} % on patches"
        for layer, each in enumerate(attention)
    ]

    def paint(tile: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        return _blend(_faded(tile), colours[pixels], 0.65)

    rows, size = _tile_rows(image, steps, captions, paint, columns, grid)
    return _stack(rows, 0, size, margin=size)


def _tile_rows(
    image: np.ndarray,
    values: np.ndarray,
    captions: Sequence[str],
    paint: Callable[[np.ndarray, np.ndarray], np.ndarray],
    columns: int,
    grid: TokenGrid,
) -> tuple[list[np.ndarray], int]:
    """One painted tile per map of `values` (L, H, W), in rows of `columns`; and the text's size."""
    layers = len(values)
    columns = min(columns, layers, _MAX_SIDE // _MIN_TILE)
    smallest = max(_MIN_TILE, _MIN_WIDTH // columns)
    tile = _fit(image, smallest, _MAX_SIDE // columns, _MAX_SIDE // -(-layers // columns))
    slot = max(tile.shape[1], _MIN_TILE)
    size, tiles = _text_size(2 * slot), []
    for caption, each in zip(captions, values, strict=True):
        pixels = grid.to_pixels(each, tile.shape[:2])
        label = _label(caption, size, slot)
        tiles.append(_stack([label, paint(tile, pixels)], 0, size // 4, least=slot))
    return [_stack(tiles[i : i + columns], 1, size) for i in range(0, layers, columns)], size


def side_by_side(
    images: Sequence[np.ndarray], captions: Sequence[str], *, height: int = 512
) -> np.ndarray:
    """A strip of RGB pictures scaled to `height` pixels, but at most 2048 wide; captions above."""
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures and {len(captions)} captions do not pair up.")
    if not 1 <= height <= _MAX_SIDE:
        raise ValueError(f"height must lie between 1 and {_MAX_SIDE} pixels, not be {height}.")
    size, parts = _text_size(2 * height), []
    for image, caption in zip(images, captions, strict=True):
        _check_image(image)
        picture = _resize(image, min(height / image.shape[0], _MAX_SIDE / image.shape[1]))
        slot = max(picture.shape[1], 10 * size)
        parts.append(_stack([_label(caption, size, slot), picture], 0, size // 4, least=slot))
    return _stack(parts, 1, size, margin=size)


def write_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Writes a PNG or JPEG, by the name's ending; no half file ever stands under that name.

    Raises InputError where it cannot be written.
    """
    path = Path(path)
    _check_image(rgb)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"A picture's name must end in .png, .jpg or .jpeg, unlike {path.name!r}.")
    with write_whole(path) as partial:
        partial.write_bytes(_encode(path.suffix, rgb))


def _encode(suffix: str, rgb: np.ndarray) -> bytes:
    """The bytes of a picture file. Raises OSError for a picture that OpenCV does not take."""
    try:
        encoded, data = cv2.imencode(suffix, rgb[..., ::-1])
    except cv2.error:
        encoded = False
    if not encoded:
        raise OSError("OpenCV cannot encode it")
    return data.tobytes()


def _check_keep(keep: np.ndarray) -> None:
    if keep.ndim != 3 or keep.dtype != np.bool_ or keep.size == 0:
        raise ValueError(f"keep must be bool (L, H, W), not {keep.dtype} of shape {keep.shape}.")


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"An image must be uint8 (h, w, 3), not {image.dtype} {image.shape}.")


def _blend(under: np.ndarray, over: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    return ((1 - share) * under + share * over).round().astype(np.uint8)


def _faded(image: np.ndarray) -> np.ndarray:
    """What a colour scale may lie over, (h, w, 1).

    Grey, because the image's own colours would mix with the scale's, and with half the contrast,
    because deep black and white would hide them.
    """
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 2 + 64


def _tint(image: np.ndarray, fates: np.ndarray) -> np.ndarray:
    return _blend(image, _TINTS[fates], _TINT_SHARES[fates][..., None])


def _fit(image: np.ndarray, min_width: int, max_width: int, max_height: int) -> np.ndarray:
    height, width = image.shape[:2]
    return _resize(image, min(max(1.0, min_width / width), max_width / width, max_height / height))


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)


def _text_size(side: int) -> int:
    """Height of capitals in pixels for a picture whose longer side has `side` pixels."""
    return min(max(12, side // 60), 30)


def _label(text: str, size: int, room: int) -> np.ndarray:
    """Dark text on white, smaller or cut short where it would be wider than `room` pixels."""
    text, scale = " ".join(text.splitlines()), size / 22
    while (width := cv2.getTextSize(text, _FONT, scale, 1)[0][0]) > room - 2 and len(text) > 3:
        if 22 * scale > 10:
            scale *= 0.95
        else:
            text = text.removesuffix("...")[:-1] + "..."
    # The height is that of any text, so that captions side by side stand on one line.
    (_, height), below = cv2.getTextSize("Ag", _FONT, size / 22, 1)
    label = np.full((height + 2 * below, width + 2, 3), 255, np.uint8)
    return cv2.putText(label, text, (1, height + below), _FONT, scale, _INK, 1, cv2.LINE_AA)


def _colour_bar(swatches: np.ndarray, *, lowest: int, height: int, size: int) -> np.ndarray:
    """One swatch per number of blocks, the most on top, with the numbers and a title beside."""
    count = len(swatches)
    bar = np.repeat(swatches[::-1][np.arange(height) * count // height][:, None], size, axis=1)
    numbers = np.full((height, 2 * size, 3), 255, np.uint8)
    step = -(-2 * size * count // height)  # every number, unless they would touch
    for index in range(count - 1, -1, -step):
        label = _label(str(lowest + index), size, 2 * size - 2)
        top = round((count - index - 0.5) * height / count) - len(label) // 2
        top = min(max(0, top), height - len(label))
        numbers[top : top + len(label), : label.shape[1]] = label
    title = np.rot90(_label("blocks that used the token", size, height - 2))
    above = (height - len(title)) // 2
    title = np.pad(title, ((above, 0), (0, size // 2), (0, 0)), constant_values=255)
    return _stack([bar, numbers, title], 1, size // 2)


def _stack(
    images: Sequence[np.ndarray], axis: int, gap: int, *, least: int = 0, margin: int = 0
) -> np.ndarray:
    """Puts pictures in a column (axis 0) or row (1) on white, at least `least` the other way."""
    shape = [max(least, *(image.shape[side] for image in images)) for side in range(2)]
    shape[axis] = sum(image.shape[axis] + gap for image in images) - gap
    stack = np.full((shape[0] + 2 * margin, shape[1] + 2 * margin, 3), 255, np.uint8)
    start = [margin, margin]
    for image in images:
        stack[start[0] :, start[1] :][: image.shape[0], : image.shape[1]] = image
        start[axis] += image.shape[axis] + gap
    return stack
