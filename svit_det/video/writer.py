"""Writing a film that browsers play: H.264 in an mp4, by the encoder of the wheel imageio-ffmpeg.

During writing, NAME.partial.mp4 stands beside the target. This file is fragmented, so that it plays
up to its last second even if the process is killed. At the end the partial file is copied into the
target without encoding, with the index first: the film then starts at once and players can jump in
it. A film that ends early, after an interrupt, becomes the target only where no older film stands
there. Where it does not become the target, the sentence about the end names the partial file.
"""

from __future__ import annotations

import importlib
import os
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


def check_partial(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace what stands in the place of the partial file. Raises InputError.

    With `overwrite`, the film that a killed run left there may be replaced, and nothing else.
    """
    partial = partial_path(target)
    place = f"{partial}: stands where {target.name} is written until it is done"
    if not os.path.lexists(partial):
        return
    if not _may_be_left(partial):
        raise InputError(f"{place}, and is no film that a run has left; move it away.")
    if not overwrite:
        raise InputError(
            f"{place}, perhaps left by a run that was killed; move it away, or give --overwrite."
        )


def _may_be_left(path: Path) -> bool:
    """Whether a killed run may have left the file: an mp4, or an empty file."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return False
    return not head or head[4:] == b"ftyp"


class FilmWriter:
    """Encodes frames of one size. `film_to` makes and closes the writer."""

    def __init__(self, partial: Path, size: tuple[int, int], fps: float) -> None:
        """size: (height, width), both even."""
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"H.264 in yuv420p wants even sides, not {size}.")
        self.size, self.frames, self._problem = size, 0, ""
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
            restore_signals=False,  # a file that grows too large is an error, not the process's end
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
        """End the film; return what is wrong with it by the encoder's words, or "" for nothing."""
        if not self._said.closed:
            with suppress(BrokenPipeError):
                self._process.communicate()
            status = self._process.wait()
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            self._said.close()
            # The first line is about the cause, and the last often says "Conversion failed!" alone.
            self._problem = (lines[0] if lines else f"its status is {status}") if status else ""
        return self._problem


@contextmanager
def film_to(
    target: Path, *, size: tuple[int, int], fps: float, overwrite: bool = False
) -> Iterator[FilmWriter]:
    """A writer whose film stands at `target` after the with-block.

    If the block raises, the film of the frames so far stands there, or in the partial file where
    `target` holds an older film; an InputError and a KeyboardInterrupt then say where. Without any
    frame no file is left. Raises InputError where the film cannot be written; the sentence names
    the partial file if it holds frames. `overwrite`: a partial file that is there is replaced.
    """
    check_partial(target, overwrite=overwrite)
    writer = _begun(target, size, fps)
    try:
        yield writer
    except KeyboardInterrupt as stop:
        raise type(stop)(_kept(writer, target)) from stop
    except InputError as error:
        raise InputError(_with(str(error), _kept(writer, target))) from error
    except OSError as error:
        said = f"{target}: cannot be written ({error.strerror or error})"
        raise InputError(_with(said, _kept(writer, target, may_publish=False))) from error
    except BaseException:
        _kept(writer, target)
        raise
    problem = writer.close()
    if problem:
        said = f"{target}: the encoder failed ({problem})"
        raise InputError(_with(said, _kept(writer, target)))
    if writer.frames == 0:
        partial_path(target).unlink(missing_ok=True)
        return
    try:
        _publish(partial_path(target), target)
    except InputError as error:
        raise InputError(_with(str(error), _kept(writer, target, may_publish=False))) from error


def _begun(target: Path, size: tuple[int, int], fps: float) -> FilmWriter:
    """A writer to the partial file, which is made anew; after an exception no file is left."""
    partial = partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.touch(exist_ok=False)
        try:
            return FilmWriter(partial, size, fps)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}).") from error


def _kept(writer: FilmWriter, target: Path, *, may_publish: bool = True) -> str:
    """Keep the frames of a film that ends early; returns where they are, "" for nowhere."""
    partial, problem = partial_path(target), writer.close()
    if writer.frames == 0 or not partial.is_file() or partial.stat().st_size == 0:
        partial.unlink(missing_ok=True)
        return ""
    place = partial
    if may_publish and not problem and not os.path.lexists(target):
        with suppress(InputError):
            _publish(partial, target)
            place = target
    return f"the film so far is in {place}"


def _with(sentence: str, more: str) -> str:
    return f"{sentence.removesuffix('.')}; {more}." if more else f"{sentence.removesuffix('.')}."


def _publish(partial: Path, target: Path) -> None:
    """Copy the film with its index first, then remove the partial file. Raises InputError."""
    copy = ["-c", "copy", "-movflags", "+faststart", "-f", "mp4"]
    with write_whole(target) as whole:
        _run([encoder_path(), "-loglevel", "error", "-y", "-i", str(partial), *copy, str(whole)])
    partial.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, restore_signals=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OSError(lines[0] if lines else f"ffmpeg ended with status {done.returncode}")
