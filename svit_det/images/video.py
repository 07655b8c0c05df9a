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

from svit_det.errors import InputError, is_text
from svit_det.images.open import LARGEST_IMAGE

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LARGEST_CAMERA = 1_000
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The environment variable from which OpenCV takes FFmpeg's options whenever it opens a film."""
PLAIN_FILMS = (
    "protocol_whitelist;file|format_whitelist;avi,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo"
)
"""FFmpeg's options for films that are one file: playlists name other files, or addresses."""


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
    """OpenCV's capture of a film or a camera, opened or not, without messages of OpenCV and FFmpeg.

    The caller says what could not be read, and releases the capture. Raises InputError for the
    number of a camera that no machine has, and for frames of more than LARGEST_IMAGE pixels, before
    the first of them is asked for.
    """
    if isinstance(source, int) and not 0 <= source <= LARGEST_CAMERA:
        raise InputError(f"Camera {source}: cameras have numbers from 0 to {LARGEST_CAMERA}.")
    cv2 = _opencv()
    with _silent(cv2):
        is_camera = isinstance(source, int)
        capture = cv2.VideoCapture(source) if is_camera else _of_film(cv2, str(source))
    sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    width, height = (int(capture.get(side)) for side in sides)
    if width * height > LARGEST_IMAGE:
        capture.release()
        raise InputError(
            f"{source}: frames of {width:,} x {height:,} pixels, where {LARGEST_IMAGE:,} can be "
            "read; make them smaller."
        )
    return capture


def _of_film(cv2: ModuleType, path: str) -> Any:
    """A capture that FFmpeg opens if the file is a film.

    FFmpeg decides by content and not by name: a playlist called "film.mp4" would make it read other
    files or connect to a server. Such lists are not opened. The name cannot be taken for an address
    or for a series of pictures either.
    """
    path = os.path.abspath(path)
    if not is_text(path):  # OpenCV ends the whole process here
        raise InputError(f"{path}: OpenCV opens no film whose path is not UTF-8; rename it.")
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = PLAIN_FILMS
    try:
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    finally:
        if before is None:
            del os.environ[OPTIONS]
        else:
            os.environ[OPTIONS] = before


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
