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
from svit_det.images.video import frames_of
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
    with pytest.raises(InputError, match=r"a\.partial\.mp4: .* perhaps left by a run that was"):
        write(path, 3)
    assert len(decoded(partial)) > 10
    write(path, 3, overwrite=True)  # the next run takes the file's place and removes it
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_what_no_run_has_left_is_not_replaced(tmp_path):
    """Whatever is asked for: notes, a link to a film of one's own, a folder."""
    (tmp_path / "a.partial.mp4").write_text("my notes")
    (tmp_path / "b.partial.mp4").symlink_to(tmp_path / "own.mp4")
    (tmp_path / "c.partial.mp4").mkdir()
    write(tmp_path / "own.mp4", 3)
    before = (tmp_path / "own.mp4").read_bytes()
    for name in "abc":
        with pytest.raises(InputError, match=rf"{name}\.partial\.mp4: .* is no film that a run"):
            write(tmp_path / f"{name}.mp4", 3, overwrite=True)
        assert not (tmp_path / f"{name}.mp4").exists()
    assert (tmp_path / "a.partial.mp4").read_text() == "my notes"
    assert (tmp_path / "own.mp4").read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
def test_half_a_film_does_not_replace_an_older_one(tmp_path, error):
    write(tmp_path / "a.mp4", 7)
    with pytest.raises(error) as ended, film_to(tmp_path / "a.mp4", size=(32, 48), fps=10.0) as to:
        for number in range(3):
            to.add(shade(number))
        raise error("No more.")
    assert len(decoded(tmp_path / "a.mp4")) == 7
    assert len(decoded(tmp_path / "a.partial.mp4")) == 3
    if error is not RuntimeError:
        assert f"the film so far is in {tmp_path / 'a.partial.mp4'}" in str(ended.value)


def test_the_end_says_where_the_film_is(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt) as ended, film_to(path, size=(32, 48), fps=10.0) as to:
        to.add(shade(0))
        raise KeyboardInterrupt
    assert str(ended.value) == f"the film so far is in {tmp_path / 'a.mp4'}"


def noise(number, size=(128, 192)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def test_a_full_disk(tmp_path, small_files):
    """What was written is kept and named, and the older film stays."""
    write(tmp_path / "a.mp4", 1)
    older = (tmp_path / "a.mp4").read_bytes()
    assert len(older) < 4096
    partial = tmp_path / "a.partial.mp4"
    size, path = (128, 192), tmp_path / "a.mp4"
    with pytest.raises(InputError) as refused, film_to(path, size=size, fps=10.0) as writer:
        for number in range(60):
            writer.add(noise(number))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'a.mp4'}: ") and "File too large" in said
    assert said.endswith(f"; the film so far is in {partial}.") and "\n" not in said
    assert (tmp_path / "a.mp4").read_bytes() == older
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "a.partial.mp4"]


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    def full(command):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("svit_det.video.writer._run", full)
    with pytest.raises(InputError) as refused:
        write(tmp_path / "a.mp4", 4)
    assert str(refused.value) == (
        f"{tmp_path / 'a.mp4'}: cannot be written (No space left on device); the film so far is in "
        f"{tmp_path / 'a.partial.mp4'}."
    )
    assert len(decoded(tmp_path / "a.partial.mp4")) == 4
    assert os.listdir(tmp_path) == ["a.partial.mp4"]


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
    assert os.listdir(tmp_path) == []


def test_a_missing_encoder_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        write(tmp_path / "a.mp4", 1)
    assert os.listdir(tmp_path) == []


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


def test_frames_that_are_too_large(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", 1)
    monkeypatch.setattr("svit_det.images.video.LARGEST_IMAGE", 32 * 48 - 1)
    said = r"a\.mp4: frames of 48 x 32 pixels, where 1,535 can be read; make them smaller\."
    for read in (Film.open, lambda path: list(frames_of(path))):
        with pytest.raises(InputError, match=said):
            read(tmp_path / "a.mp4")
    monkeypatch.setattr("svit_det.images.video.LARGEST_IMAGE", 32 * 48)
    assert Film.open(tmp_path / "a.mp4").size == (32, 48)


def test_an_address_is_no_film():
    with pytest.raises(InputError, match="not a URL; download it first"):
        Film.open("https://example.org/a.mp4")


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
