"""Reading films, drawing frames, and writing films that play, also after an interrupt."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.tokens import TokenGrid
from svit_det.video.frame import FilmFrames, film_scale
from svit_det.video.reader import DEFAULT_FPS, Film
from svit_det.video.writer import film_to, partial_path
from svit_det.visualization import Objects, UsagePicture, UsageScale

PROJECT = Path(__file__).resolve().parents[2]


def shade(number, size=(32, 48)):
    return np.full((*size, 3), 10 * number, np.uint8)


def write(path, count, **options):
    with film_to(path, size=(32, 48), fps=10.0, **options) as writer:
        for number in range(count):
            writer.add(shade(number))


def decoded(path):
    return [int(frame.mean().round()) for frame in Film.open(path).read()]


# ------------------------------------------------------------------ reading and writing


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path / "new/a.mp4", 12)
    film = Film.open(tmp_path / "new/a.mp4")
    assert (film.size, film.fps, film.frames) == ((32, 48), 10.0, 12)
    np.testing.assert_allclose(decoded(film.path), 10 * np.arange(12), atol=2)
    assert [round(f.mean(), -1) for f in film.read(every=5)] == [0, 50, 100]
    assert os.listdir(tmp_path / "new") == ["a.mp4"]


def test_the_form_is_what_browsers_play(tmp_path):
    """H.264 in 4:2:0 with the index before the pictures."""
    write(tmp_path / "a.mp4", 3)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data[4:8] == b"ftyp" and b"avc1" in data
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_film_ends_with_its_last_frame(tmp_path, error):
    with pytest.raises(error), film_to(tmp_path / "a.mp4", size=(32, 48), fps=10.0) as writer:
        for number in range(5):
            writer.add(shade(number))
        raise error
    assert len(decoded(tmp_path / "a.mp4")) == 5
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_without_a_frame_nothing_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), film_to(tmp_path / "a.mp4", size=(32, 48), fps=10.0):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from svit_det.video.writer import film_to
with film_to(Path(sys.argv[1]), size=(32, 48), fps=10.0) as writer:
    for number in range(100000):
        writer.add(np.full((32, 48, 3), number % 250, np.uint8))
        time.sleep(0.001)
"""


def test_a_killed_run_leaves_a_film_that_plays(tmp_path):
    path = tmp_path / "a.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    partial, until = partial_path(path), time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 20000):
        assert time.monotonic() < until, "no film grew"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    assert len(decoded(partial)) > 10
    write(path, 3)  # the next run takes the file's place and removes it
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_film_that_cannot_be_written_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.mp4: cannot be written"):
        write(tmp_path / "file/a.mp4", 1)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(InputError, match=r"b\.mp4: cannot be written"):
        write(tmp_path / "b.mp4", 1)


def test_an_encoder_that_gives_up(tmp_path, monkeypatch):
    monkeypatch.setattr("svit_det.video.writer.encoder_path", lambda: "/bin/false")
    with pytest.raises(InputError, match=r"a\.mp4: (cannot be written|the encoder)"):
        write(tmp_path / "a.mp4", 2000)
    assert not (tmp_path / "a.mp4").exists()


def test_a_missing_encoder_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        write(tmp_path / "a.mp4", 1)


def test_odd_sides_and_other_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="even"), film_to(tmp_path / "a.mp4", size=(31, 48), fps=1):
        pass
    with (
        pytest.raises(ValueError, match="A frame must be"),
        film_to(tmp_path / "a.mp4", size=(32, 48), fps=1) as writer,
    ):
        writer.add(shade(0, (32, 46)))


@pytest.mark.parametrize("content", [b"", b"no film at all", b"\x00" * 5000])
def test_what_is_no_film(tmp_path, capfd, content):
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.avi: (the file is empty|not a film)"):
        Film.open(path)
    with pytest.raises(InputError, match=r"gone\.avi: no such film"):
        Film.open(tmp_path / "gone.avi")


def test_a_speed_that_no_film_has_is_replaced(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", 2)
    real = cv2.VideoCapture

    class Odd:
        def __init__(self, *how):
            self.inner = real(*how)

        def get(self, what):
            return 90000.0 if what == cv2.CAP_PROP_FPS else -1.0

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(cv2, "VideoCapture", Odd)
    film = Film.open(tmp_path / "a.mp4")
    assert (film.fps, film.frames) == (DEFAULT_FPS, None)


# ------------------------------------------------------------------ drawing


def picture(share, *, found=1):
    keep = np.ones((4, 4, 6), bool)
    keep[1:, :, : round(6 * (1 - share))] = False
    objects = Objects(
        boxes=np.tile([[2.0, 2.0, 20.0, 20.0]], (found, 1)), classes=np.zeros(found, int)
    )
    image = np.full((32, 48, 3), 128, np.uint8)
    return UsagePicture(image=image, keep=keep, grid=TokenGrid((32, 48), 8), found=objects)


@pytest.mark.parametrize("shape", [(32, 48), (7, 999), (999, 7), (1080, 1920)])
def test_frames_have_one_even_bounded_size(shape):
    frames = FilmFrames(image_size=shape, total=3, fps=5.0, scale=UsageScale.full(4), caption="x")
    assert frames.size[0] % 2 == 0 == frames.size[1] % 2
    assert max(frames.size) < 2000
    grid = TokenGrid(shape, max(shape))
    one = UsagePicture(
        image=np.zeros((*shape, 3), np.uint8), keep=np.ones((4, 1, 1), bool), grid=grid
    )
    for _ in range(5):  # two more than were announced
        assert frames.draw(one).shape == (*frames.size, 3)


def test_usage_grows_from_left_to_right():
    frames = FilmFrames(image_size=(32, 48), total=10, fps=5.0, scale=UsageScale.full(4))
    top, height = frames._strip
    left, right = frames._axis()
    drawn = [
        (frames.draw(picture(0.5, found=n % 2))[top : top + height, left:right] > 150)
        .any(axis=(0, 2))
        .sum()
        for n in range(10)
    ]
    assert all(a < b for a, b in pairwise(drawn))
    assert drawn[-1] > 0.95 * (right - left)


def test_the_scale_of_a_film_takes_fewer_blocks_too():
    scale = film_scale(picture(0.5))
    assert (scale.low, scale.high) == (1, 4)
    assert scale.paint(np.array([0])).tolist() == scale.paint(np.array([1])).tolist()
