"""tools/video.py: a film in, a film out, and what it refuses."""

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file


@pytest.fixture
def clip(tmp_path):
    """A film of eight frames, 48 x 72 pixels."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (72, 48))
    for number in range(8):
        frame = np.full((48, 72, 3), 100, np.uint8)
        cv2.circle(frame, (10 + 6 * number, 24), 10, (40, 60, 230), -1)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def arguments(tiny_yaml, tiny_model, clip, tmp_path):
    """Factory: a command line; keywords replace its parts."""
    weights = tmp_path / "svit.safetensors"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, weights)

    def make(*more, film=clip, output=tmp_path / "made/out.mp4"):
        parts = ["--config-file", tiny_yaml, "--weights", weights, "--min-score", 0.0]
        return [*parts, "--panel", 160, "--output", output, "--allow-untrained", *more, film]

    return make


def frames_in(path):
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count, capture.get(cv2.CAP_PROP_FPS)


def test_a_film(run_tool, arguments, tmp_path):
    run = run_tool("video.py", *arguments())
    assert run.returncode == 0, run.stdout + run.stderr
    assert frames_in(tmp_path / "made/out.mp4") == (8, 10)
    assert "8 frames in" in run.stdout and "frames per second" in run.stdout
    assert "Warning" not in run.stderr and "8/8" in run.stderr


def test_a_part_of_a_film_keeps_its_speed(fork_tool, arguments, tmp_path):
    run = fork_tool("video.py", *arguments("--every", 2, "--frames", 3, "--full-scale"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert frames_in(tmp_path / "made/out.mp4") == (3, 5)


def test_what_is_refused(refused, arguments, clip, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "there.mp4").touch()

    def says(*more, **replaced):
        return refused("video.py", *arguments(*more, **replaced))

    assert "empty.mp4: the file is empty" in says(film=tmp_path / "empty.mp4")
    assert "text.mp4: not a film" in says(film=tmp_path / "text.mp4")
    assert "gone.mp4: no such film" in says(film=tmp_path / "gone.mp4")
    assert "give --overwrite" in says(output=tmp_path / "there.mp4")
    assert "name a .mp4" in says(output=tmp_path / "out.avi")
    assert "may be written to" in says(output=clip / "out.mp4")
    same = tmp_path / "there.mp4"
    assert "is one of the files that are read" in says("--overwrite", film=same, output=same)
    gone = tmp_path / "gone.mp4"
    assert "gone.mp4: no such film" in says("--overwrite", film=gone, output=same)
    partial = tmp_path / "film.partial.mp4"
    partial.write_bytes(clip.read_bytes())
    said = says(film=partial, output=tmp_path / "film.mp4")
    assert "film.partial.mp4, which is written too, is one of the files that are read" in said
    assert "is no film that a run has left" in says("--overwrite", output=tmp_path / "film.mp4")
    assert partial.read_bytes() == clip.read_bytes()
    weights = tmp_path / "svit.safetensors"
    assert "name a .mp4" in says("--overwrite", output=weights)
    (tmp_path / "b.partial.mp4").mkdir()
    assert "b.partial.mp4: stands where b.mp4" in says("--overwrite", output=tmp_path / "b.mp4")
    assert "--every 0" in says("--every", 0) and "--panel 5" in says("--panel", 5)
    assert not (tmp_path / "made").exists()
