"""Films are one file each: no list of other files, no address, no series of pictures."""

import os
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.images.video import frames_of
from svit_det.video.reader import Film


def write(path, frames=3):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    for _ in range(frames):
        writer.write(np.zeros((16, 32, 3), np.uint8))
    writer.release()


@pytest.fixture
def visits():
    """(port, visits): a server that keeps who came."""
    came = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            came.append(address)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], came
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n",
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{film}'\n",
    "concat of an address": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_films_is_no_film(tmp_path, visits, name, suffix):
    port, came = visits
    write(tmp_path / "film.avi")
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[name].format(port=port, film="film.avi"))
    with pytest.raises(InputError, match="not a film that can be read"):
        list(frames_of(path))
    with pytest.raises(InputError, match="not a film of which a frame can be read"):
        Film.open(path)
    assert came == []


@pytest.mark.parametrize("name", ["concat:a.avi", "http:a.avi", "a|b.avi", "a%03d.avi", "-i.avi"])
def test_a_name_is_nothing_but_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "film.avi")
    (tmp_path / "film.avi").rename(tmp_path / name)
    assert len(list(frames_of(name))) == 3
    assert Film.open(name).size == (16, 32)


def test_a_name_that_is_no_text(tmp_path):
    """OpenCV would end the whole process."""
    write(tmp_path / "film.avi")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.avi"))
    (tmp_path / "film.avi").rename(odd)
    for read in (lambda path: list(frames_of(path)), Film.open):
        with pytest.raises(InputError, match=r"udcfe\.avi: OpenCV opens no film whose path is not"):
            read(odd)


def test_a_pattern_of_pictures_is_no_film(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"a{number}.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="not a film that can be read"):
        list(frames_of(tmp_path / "a%d.png"))


def test_a_picture_is_no_film(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="not a film that can be read"):
        list(frames_of(tmp_path / "a.mp4"))
