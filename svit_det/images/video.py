"""Frames of a film or a camera, one after the other."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from svit_det.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def frames_of(source: str | Path | int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (height, width, 3) uint8 RGB) of each frame of a film, or of camera number `source`.

    A camera gives frames until the caller stops. Raises InputError for a film that cannot be read
    and for a camera that is missing.
    """
    is_camera, capture = isinstance(source, int), open_capture(source)
    try:
        number = 0
        while capture.isOpened():
            good, frame = capture.read()
            if not good:
                break
            name = f"camera {source}" if is_camera else str(source)
            yield f"{name}#{number:06d}", np.ascontiguousarray(frame[:, :, ::-1])
            number += 1
    finally:
        capture.release()
    if number == 0:
        if is_camera:
            raise InputError(f"Camera {source}: there is none that can be read.")
        raise InputError(f"{source}: not a film that can be read.")


def open_capture(source: str | Path | int) -> Any:
    """OpenCV's capture of a film or a camera, opened or not, without OpenCV's and ffmpeg's messages.

    The caller says what could not be read, and releases the capture.
    """
    cv2 = _opencv()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when the first film opens
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(source if isinstance(source, int) else str(source))
    finally:
        log.setLogLevel(level)


def _opencv() -> ModuleType:
    """OpenCV, imported only for films and cameras: pictures need Pillow alone."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            "Films and cameras need OpenCV, which is not installed: pip install "
            "opencv-python-headless."
        ) from error
