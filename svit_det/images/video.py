"""Frames of a film or a camera, one after the other."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from svit_det.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LARGEST_CAMERA = 1_000
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The environment variable from which OpenCV takes FFmpeg's options whenever it opens a film."""
PLAIN_FILMS = (
    "protocol_whitelist;file|format_whitelist;avi,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo"
)
"""FFmpeg's options for films that are one file: playlists name other files, or addresses."""


def open_film(path: str | Path) -> Any:
    """OpenCV's capture of the film at `path`, which may turn out not to be open.

    FFmpeg decides by content and not by name: a playlist called "film.mp4" would make it read other
    files or connect to a server. Such lists are not opened. The name cannot be taken for an address
    or for a series of pictures either.
    """
    cv2 = _opencv()
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = PLAIN_FILMS
    try:
        with _silent(cv2):
            return cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    finally:
        if before is None:
            del os.environ[OPTIONS]
        else:
            os.environ[OPTIONS] = before


def frames_of(source: str | Path | int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (height, width, 3) uint8 RGB) of each frame of a film, or of camera number `source`.

    A camera gives frames until the caller stops. Raises InputError for a film that cannot be read
    and for a camera that is missing.
    """
    is_camera = isinstance(source, int)
    if isinstance(source, int) and not 0 <= source <= LARGEST_CAMERA:
        raise InputError(f"Camera {source}: cameras have numbers from 0 to {LARGEST_CAMERA}.")
    capture = _open_camera(source) if isinstance(source, int) else open_film(source)
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


def _open_camera(number: int) -> Any:
    cv2 = _opencv()
    with _silent(cv2):
        return cv2.VideoCapture(number)


@contextmanager
def _silent(cv2: ModuleType) -> Iterator[None]:
    """Silence what OpenCV and its FFmpeg print about what they cannot read: our errors say it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when the first film opens
    log = cv2.utils.logging
    before = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(before)


def _opencv() -> ModuleType:
    """OpenCV, imported only for films and cameras: pictures need Pillow alone."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            "Films and cameras need OpenCV, which is not installed: pip install "
            "opencv-python-headless."
        ) from error
