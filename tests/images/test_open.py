"""Hostile files, odd shapes and every EXIF orientation."""

import os
import subprocess
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from svit_det.errors import InputError
from svit_det.images import read_image, size_on_disk

ORIENTATION = 0x0112
PIXELS = np.zeros((4, 6, 3), np.uint8)
PIXELS[0, 0], PIXELS[0, 1] = 250, 120
TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


def store(path, pixels, orientation):
    if path.suffix == ".tif":
        tag = (ORIENTATION, 3, 1, orientation, True)
        kind = "minisblack" if pixels.ndim == 2 else "rgb"
        tifffile.imwrite(path, pixels, photometric=kind, extratags=[tag])
        return
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if path.suffix == ".webp" else {"quality": 100}
    Image.fromarray(pixels).save(path, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", PIXELS),
        ("a.webp", PIXELS),
        ("a.jpg", PIXELS.repeat(16, axis=0).repeat(16, axis=1)),
        ("a.tif", PIXELS),
        ("grey.tif", PIXELS[..., 0]),
        ("grey16.tif", PIXELS[..., 0].astype(np.uint16) * 200),
        ("deep.tif", PIXELS.astype(np.uint16) * 200),
    ],
)
def test_every_orientation(tmp_path, name, pixels, orientation):
    store(tmp_path / name, pixels, orientation)
    image = read_image(tmp_path / name, "RGB")
    assert size_on_disk(tmp_path / name) == image.shape[:2]
    scale = image.shape[0] // TURNED[orientation].shape[0]
    small = image[scale // 2 :: scale, scale // 2 :: scale].astype(int)
    assert abs(small - TURNED[orientation]).max() <= 12


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not(tmp_path, orientation):
    store(tmp_path / "a.png", PIXELS, orientation)
    assert (read_image(tmp_path / "a.png", "RGB") == PIXELS).all()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\1\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\4\0\0\0abc\0",
        b"Exif\0\0" + bytes(range(256)),
    ],
)
def test_broken_exif_says_nothing_of_the_pixels(tmp_path, exif):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", "RGB").shape == PIXELS.shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_sides_of_one_pixel(tmp_path, shape, kind):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((*shape, 3), kind), photometric="rgb")
    assert read_image(tmp_path / "a.tif", "RGB").shape == (*shape, 3)


# ------------------------------------------------------------------ refused


def refusal(path):
    with pytest.raises(InputError) as refused:
        read_image(path, "RGB")
    with pytest.raises(InputError):
        size_on_disk(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_postscript_under_another_name_is_not_interpreted(tmp_path, monkeypatch):
    """Pillow would start Ghostscript on it."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: started.append(a))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert "not an image file that can be read" in refusal(path)
    assert started == []


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "a folder or a device, not an image file" in refusal(tmp_path / "a.png")
    assert "a folder or a device" in refusal("/dev/zero")


def test_giants(tmp_path):
    """A small file that would be 3.6 thousand million pixels, and one just above the limit."""
    for side in (60_000, 13_400):
        Image.new("1", (side, 1)).save(tmp_path / "a.png")
        content = bytearray((tmp_path / "a.png").read_bytes())
        content[20:24] = side.to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        (tmp_path / "a.png").write_bytes(content)
        said = refusal(tmp_path / "a.png")
        assert "where 178,956,970 can be read; cut it to tiles" in said


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "x" * 300])
def test_names_that_no_file_has(tmp_path, name):
    refusal(str(tmp_path / name))


@pytest.mark.parametrize("name", [b"\xff\xfe.png", "ü\u202e.png".encode(), b"a\x1b[31m\nb.png"])
def test_names_that_no_terminal_can_print(tmp_path, name):
    path = os.path.join(tmp_path, os.fsdecode(name))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    assert (read_image(path, "RGB") == PIXELS).all()
    with open(path, "wb") as file:
        file.write(b"no image")
    said = refusal(path)
    assert said.isprintable() and said.encode()
