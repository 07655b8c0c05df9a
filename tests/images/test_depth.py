"""More than eight bits a channel, however stored, are scaled from the image's own range."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from svit_det.errors import InputError
from svit_det.images import depth, read_image

COLOURS = np.array([[[0, 1000, 2000], [3000, 4000, 10_000]]], np.uint16)
SCALED = [[[0, 26, 51], [76, 102, 255]]]


def png(rows, colour_type, *, bits=16):
    """A PNG of big-endian 16-bit values, rows x columns x channels; Pillow writes none of those."""
    rows = np.asarray(rows, ">u2")

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width = rows.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_png(tmp_path):
    (tmp_path / "a.png").write_bytes(png(COLOURS, 2))
    assert read_image(tmp_path / "a.png", "RGB").tolist() == SCALED
    assert read_image(tmp_path / "a.png", "BGR")[0, 0].tolist() == SCALED[0][0][::-1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}], ids=str)
def test_tif(tmp_path, order, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOURS, photometric="rgb", byteorder=order, **options)
    assert read_image(path, "RGB").tolist() == SCALED


def test_a_tif_in_tiles(tmp_path):
    large = COLOURS.repeat(40, axis=0).repeat(40, axis=1)
    options = {"tile": (16, 16), "compression": "zlib", "predictor": True}
    tifffile.imwrite(tmp_path / "a.tif", large, photometric="rgb", **options)
    assert read_image(tmp_path / "a.tif", "RGB")[::40, ::40].tolist() == SCALED


def test_planes_behind_each_other_are_refused(tmp_path):
    """Pillow reads them wrongly, without a word."""
    planes = COLOURS.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="lie behind each other; save them interleaved"):
        read_image(tmp_path / "a.tif", "RGB")


def test_transparency(tmp_path):
    """Black where nothing is seen, and not part of the range."""
    path = tmp_path / "a.tif"
    alpha = np.array([[[65535], [0]]], np.uint16)
    pixels = np.concatenate([COLOURS, alpha], axis=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(path, "RGB").tolist() == [[[0, 128, 255], [0, 0, 0]]]
    (tmp_path / "a.png").write_bytes(png(pixels, 6))
    assert read_image(tmp_path / "a.png", "RGB").tolist() == [[[0, 128, 255], [0, 0, 0]]]
    grey = [[[1000, 65535], [3000, 65535], [60_000, 0]]]
    (tmp_path / "b.png").write_bytes(png(grey, 4))
    assert read_image(tmp_path / "b.png", "RGB")[0, :, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_tifs_whose_least_value_is_white(tmp_path, kind, compression):
    values = np.array([[10, 30, 20]]) if kind == "uint8" else np.array([[1000, 3000, 2000]])
    tifffile.imwrite(
        tmp_path / "a.tif", values.astype(kind), photometric="miniswhite", compression=compression
    )
    expected = [245, 225, 235] if kind == "uint8" else [255, 0, 128]
    assert read_image(tmp_path / "a.tif", "RGB")[0, :, 0].tolist() == expected


def test_values_without_sign_of_32_bits(tmp_path):
    values = np.array([[10**9, 3 * 10**9, 2 * 10**9]], np.uint32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert read_image(tmp_path / "a.tif", "RGB")[0, :, 0].tolist() == [0, 255, 128]


def test_an_inverted_float_without_value_is_black(tmp_path):
    values = np.array([[np.nan, 1.0, 3.0]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    assert read_image(tmp_path / "a.tif", "RGB")[0, :, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("shape", [(3000, 2), (2, 3000), (1, 6000)])
def test_many_pixels_have_one_range(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(depth, "AT_ONCE", 1000)
    values = np.full(shape, 500, np.uint16)
    values.flat[0], values.flat[5801] = 100, 1100
    Image.fromarray(values).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", "RGB")[..., 0]
    assert [grey.flat[place] for place in (0, 3000, 5801)] == [0, 102, 255]


@pytest.mark.parametrize("colour_type", [2, 4, 6], ids=["RGB", "LA", "RGBA"])
def test_parts_are_scaled_as_the_whole(tmp_path, monkeypatch, colour_type):
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, channels))
    values[::3, ..., -1] = 0
    (tmp_path / "a.png").write_bytes(png(values, colour_type))
    whole = read_image(tmp_path / "a.png", "RGB")
    monkeypatch.setattr(depth, "AT_ONCE", 7)
    assert np.array_equal(read_image(tmp_path / "a.png", "RGB"), whole)


@pytest.mark.parametrize("shape", [(500, 2000), (1, 1_000_000)], ids=str)
@pytest.mark.parametrize("colour_type", [2, 6], ids=["RGB", "RGBA"])
def test_a_wide_picture_needs_no_copy_in_floats(tmp_path, monkeypatch, colour_type, shape):
    monkeypatch.setattr(depth, "AT_ONCE", 10_000)
    values = np.zeros((*shape, 3 if colour_type == 2 else 4), np.uint16)
    values[..., -1] = 40_000
    (tmp_path / "a.png").write_bytes(png(values, colour_type))
    tracemalloc.start()
    try:
        read_image(tmp_path / "a.png", "RGB")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * values.size
