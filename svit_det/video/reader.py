"""Reading a film: its size, speed and length, and its frames one by one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from svit_det.errors import InputError
from svit_det.images.video import open_film

DEFAULT_FPS = 25.0
"""Frames per second where a file gives no speed, or an impossible one."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film that could be opened and has a first frame."""

    path: Path
    size: tuple[int, int]
    """(height, width) in pixels."""
    fps: float
    """Frames per second."""
    frames: int | None
    """The number of frames according to the file, which may be wrong; None: not stated."""

    @classmethod
    def open(cls, path: str | Path) -> Film:
        """Open the film. Raises InputError if it is missing, is no film, or has no frame."""
        path = Path(path)
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such film.")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty.")
        capture = open_film(path)
        try:
            good, frame = capture.read() if capture.isOpened() else (False, None)
            if not good or frame is None:
                raise InputError(f"{path}: not a film of which a frame can be read.")
            fps = float(capture.get(cv2.CAP_PROP_FPS))
            count = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        return cls(
            path=path,
            size=(frame.shape[0], frame.shape[1]),
            fps=fps if math.isfinite(fps) and 0.1 <= fps <= 240 else DEFAULT_FPS,
            frames=int(count) if math.isfinite(count) and 1 <= count < 1e9 else None,
        )

    def read(self, *, every: int = 1) -> Iterator[np.ndarray]:
        """Every `every`-th frame, (height, width, 3) uint8 RGB, until the film ends."""
        capture, number = open_film(self.path), 0
        try:
            while capture.grab():  # skipped frames are not converted to pixels
                if number % every == 0:
                    good, frame = capture.retrieve()
                    if not good:
                        break
                    yield np.ascontiguousarray(frame[..., ::-1])
                number += 1
        finally:
            capture.release()
