"""Composing pictures: text, resizing, rows and columns on white, and writing the file.

Every picture is RGB uint8, (height, width, 3). A sheet is laid out at its final size in pixels:
nothing with text is resized afterwards, so that text stays sharp.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svit_det.files import write_whole

MAX_SIDE = 2048
"""Most pixels of a side of a picture within a sheet."""
INK = (32, 32, 32)
WHITE = (255, 255, 255)


def text_size(width: int) -> int:
    """Pixels of the letters' height for a sheet of this width."""
    return min(max(13, width // 75), 22)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib always brings this font; OpenCV's own letters are ASCII only.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )


def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return int(np.ceil(_font(size).getlength(text)))


def shortened(text: str, size: int, room: int) -> str:
    """One line that is at most `room` pixels wide; three dots stand for text that is cut off."""
    text = " ".join(text.split())
    if len(text) <= 1 or text_width(text, size) <= room:
        return text

    def cut(length: int) -> str:
        return text[:length].rstrip() + "…"

    # By halves, because a name from outside may have thousands of characters.
    lengths = range(1, len(text))
    return cut(bisect_left(lengths, True, key=lambda each: text_width(cut(each), size) > room))


def label(
    text: str,
    size: int,
    room: int,
    *,
    ink: tuple[int, int, int] = INK,
    paper: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """A line of text as a picture, cut short where it would be wider than `room` pixels."""
    text, font = shortened(text, size, room), _font(size)
    ascent, descent = font.getmetrics()
    line = Image.new("RGB", (max(1, min(text_width(text, size), room)), ascent + descent), paper)
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=ink)
    return np.asarray(line)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError for an array that is no picture."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"An image must be uint8 (h, w, 3), not {image.dtype} {image.shape}.")


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image resized to `size` = (height, width)."""
    if image.shape[:2] == size:
        return image
    how = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)


def fitting(image_size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) within `room` that has the aspect ratio of the image."""
    scale = min(room[0] / image_size[0], room[1] / image_size[1])
    height, width = (min(max(1, round(s * scale)), r) for s, r in zip(image_size, room))
    return height, width


def blend(under: np.ndarray, over: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """A mixture: `share` of the picture `over`, and the rest of the picture `under`."""
    return ((1 - share) * under + share * over).round().astype(np.uint8)


def faded(image: np.ndarray) -> np.ndarray:
    """The image (h, w, 1) in pale grey, as a ground for the colours of a scale.

    The ground is grey because the image's own colours would mix with the scale's colours. It has
    half the contrast because deep black and white would hide the scale's colours.
    """
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 2 + 64


def stack(
    images: Sequence[np.ndarray], axis: int, gap: int, *, least: int = 0, margin: int = 0
) -> np.ndarray:
    """Pictures in a column (axis 0) or row (axis 1) on white, across at least `least` pixels."""
    shape = [max(least, *(image.shape[side] for image in images)) for side in range(2)]
    shape[axis] = sum(image.shape[axis] + gap for image in images) - gap
    sheet = np.full((shape[0] + 2 * margin, shape[1] + 2 * margin, 3), 255, np.uint8)
    start = [margin, margin]
    for image in images:
        sheet[start[0] :, start[1] :][: image.shape[0], : image.shape[1]] = image
        start[axis] += image.shape[axis] + gap
    return sheet


def captioned(picture: np.ndarray, caption: str, size: int, *, least: int = 0) -> np.ndarray:
    """A line of text above a picture; its width is limited to the picture's, or to `least`."""
    slot = max(picture.shape[1], least)
    return stack([label(caption, size, slot), picture], 0, size // 3, least=slot)


def encode(suffix: str, rgb: np.ndarray) -> bytes:
    """The bytes of a picture file, ".png" or ".jpg". Raises OSError if encoding fails."""
    quality = [] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    try:
        encoded, data = cv2.imencode(suffix, rgb[..., ::-1], quality)
    except cv2.error:
        encoded = False
    if not encoded:
        raise OSError("OpenCV cannot encode it")
    return data.tobytes()


def write_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Writes a PNG or JPEG, by the ending of the name. The file is written whole or not at all.

    Raises InputError where the file cannot be written.
    """
    path = Path(path)
    check_image(rgb)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"A picture's name must end in .png, .jpg or .jpeg, unlike {path.name!r}.")
    with write_whole(path) as partial:
        partial.write_bytes(encode(path.suffix, rgb))
