"""Writing a film that browsers play: H.264 in an mp4, by the encoder of the wheel imageio-ffmpeg.

During writing, NAME.partial.mp4 stands beside the target. This file is fragmented, so that it plays
up to its last second even if the process is killed. At the end, and after an interrupt, the partial
file is copied into the target without encoding, with the index first: the film then starts at once
and players can jump in it.
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from svit_det.errors import InputError
from svit_det.files import write_whole

FRAGMENT_SECONDS = 1.0
"""Seconds that may be missing at the end of the file that a killed process leaves."""
QUALITY = 21
"""x264's constant rate factor: lower means better quality and larger files."""


def encoder_path() -> str:
    """The ffmpeg of the wheel imageio-ffmpeg. Raises InputError where it is not installed."""
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise InputError(
            "Films are written by the encoder of imageio-ffmpeg, which is not installed: pip "
            "install imageio-ffmpeg."
        ) from error


def partial_path(target: Path) -> Path:
    """The path of the film until it is done."""
    return target.with_name(f"{target.stem}.partial.mp4")


class FilmWriter:
    """Encodes frames of one size. `film_to` makes and closes the writer."""

    def __init__(self, partial: Path, size: tuple[int, int], fps: float) -> None:
        """size: (height, width), both even."""
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"H.264 in yuv420p wants even sides, not {size}.")
        self.size, self.frames = size, 0
        command = [encoder_path(), "-hide_banner", "-loglevel", "error", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}"]
        command += ["-r", f"{fps:.6f}", "-i", "-", "-c:v", "libx264", "-preset", "veryfast"]
        command += ["-crf", str(QUALITY), "-pix_fmt", "yuv420p"]
        command += ["-g", str(max(1, round(fps * FRAGMENT_SECONDS)))]
        command += ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
        command += ["-f", "mp4", str(partial)]
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C must not reach the encoder, which `close` ends
        )

    def add(self, frame: np.ndarray) -> None:
        """Append a frame (height, width, 3) uint8 RGB. Raises OSError if the encoder has ended."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"A frame must be uint8 {(*self.size, 3)}, not {frame.shape}.")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            raise OSError(self.close() or "the encoder has ended") from error
        self.frames += 1

    def close(self) -> str:
        """End the film; return the encoder's last error message, or "" for none."""
        if self._said.closed:
            return ""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.close()
        return lines[-1] if lines and self._process.returncode else ""


@contextmanager
def film_to(target: Path, *, size: tuple[int, int], fps: float) -> Iterator[FilmWriter]:
    """A writer whose film stands at `target` after the with-block, even if the block raises.

    An exception (or an interrupt) is passed on after the frames so far have been written. Without
    any frame no file is left. Raises InputError where the film cannot be written.
    """
    partial = partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        writer = FilmWriter(partial, size, fps)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}).") from error
    try:
        yield writer
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}).") from error
    finally:
        problem = writer.close()
        if writer.frames == 0:
            partial.unlink(missing_ok=True)
        elif not problem:
            _publish(partial, target)
    if problem:
        raise InputError(f"{target}: the encoder failed ({problem}).")


def _publish(partial: Path, target: Path) -> None:
    """Copy the film with its index first, then remove the partial file."""
    copy = ["-c", "copy", "-movflags", "+faststart", "-f", "mp4"]
    with write_whole(target) as whole:
        _run([encoder_path(), "-loglevel", "error", "-y", "-i", str(partial), *copy, str(whole)])
    partial.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "ffmpeg")
