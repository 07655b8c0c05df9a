"""Reading pictures of every kind, or saying why not."""

import numpy as np
import pytest
from PIL import Image

from svit_det.errors import InputError
from svit_det.images import read_image


def saved(path, pixels, mode=None, **options):
    """Write pixels (an array or an image) as the path's ending says."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image = image if mode is None else image.convert(mode)
    image.save(path, **options)
    return path


def test_rgb_and_bgr(tmp_path):
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    path = saved(tmp_path / "a.png", pixels)
    assert read_image(path, "RGB").tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert read_image(path, "BGR").tolist() == [[[3, 2, 1], [6, 5, 4]]]


def test_grey_is_repeated(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 7], [200, 255]], np.uint8))
    image = read_image(path, "RGB")
    assert image.dtype == np.uint8 and image.shape == (2, 2, 3)
    assert image[..., 0].tolist() == [[0, 7], [200, 255]]
    assert (image[..., :1] == image).all()


def test_black_and_white(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 255]], np.uint8), "1")
    assert read_image(path, "RGB").tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_from_their_own_range(tmp_path, suffix):
    """1000 to 3000 becomes 0 to 255; PIL alone would make it all white."""
    path = saved(tmp_path / f"a{suffix}", np.array([[1000, 3000], [2000, 1500]], np.uint16))
    assert read_image(path, "RGB")[..., 0].tolist() == [[0, 255], [128, 64]]


def test_floats_with_holes(tmp_path):
    pixels = np.array([[0.5, np.nan], [1.5, np.inf]], np.float32)
    assert read_image(saved(tmp_path / "a.tif", pixels), "RGB")[..., 0].tolist() == [
        [0, 0],
        [255, 0],
    ]
    nothing = np.full((1, 2), np.nan, np.float32)
    assert read_image(saved(tmp_path / "b.tif", nothing), "RGB").tolist() == [[[0] * 3] * 2]


def test_constant_wide_image(tmp_path):
    path = saved(tmp_path / "a.png", np.full((2, 3), 40_000, np.uint16))
    assert read_image(path, "RGB").max() == 0


def test_transparency_is_laid_on_black(tmp_path):
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 128]]], np.uint8)
    (opaque, clear, half) = read_image(saved(tmp_path / "a.png", pixels), "RGB")[0].tolist()
    assert opaque == [200, 100, 0]
    assert clear == [0, 0, 0]
    assert half == pytest.approx([100, 50, 0], abs=1)


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 250, 0, 0, 0, 0, 250])
    path = saved(tmp_path / "a.png", image, transparency=1)
    assert read_image(path, "RGB").tolist() == [[[10, 20, 30], [0, 0, 0], [0, 0, 250]]]


def test_grey_with_alpha(tmp_path):
    image = Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8), "LA")
    assert read_image(saved(tmp_path / "a.png", image), "RGB")[0, :, 0].tolist() == [90, 0]


def test_cmyk(tmp_path):
    inks = np.array([[[0, 255, 255, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    image = Image.fromarray(inks, "CMYK")
    pixels = read_image(saved(tmp_path / "a.tif", image), "RGB")
    assert pixels.tolist() == [[[255, 0, 0], [0, 255, 255], [0, 0, 0]]]
    big = saved(tmp_path / "a.jpg", image.resize((48, 16), Image.Resampling.NEAREST))
    assert read_image(big, "RGB")[8, 4].tolist() == pytest.approx([255, 0, 0], abs=12)


def test_exif_turns_the_picture_upright(tmp_path):
    """Orientation 6: the camera was turned, the stored top left belongs to the top right."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 250
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(saved(tmp_path / "a.png", pixels, exif=exif.tobytes()), "RGB")
    assert image.shape == (3, 2, 3)
    assert np.argwhere(image[..., 0]).tolist() == [[0, 1]]


def test_one_pixel(tmp_path):
    assert read_image(saved(tmp_path / "a.png", np.full((1, 1, 3), 9, np.uint8)), "RGB").shape == (
        1,
        1,
        3,
    )


# ------------------------------------------------------------------ refused, by name


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jpg", None, "no such image"),
        ("a.jpg", b"", "not an image"),
        ("a.png", b"this is text", "not an image"),
        ("a.jpg", "cut", "cannot be decoded"),
        ("a.png", "cut", "cannot be decoded"),
        ("a.tif", "cut", "a.tif"),
    ],
)
def test_unreadable(tmp_path, name, content, said):
    path = tmp_path / name
    if content == "cut":
        saved(path, noise(60, 80))
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        read_image(path, "RGB")
    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(InputError, match="a folder or a device"):
        read_image(tmp_path, "RGB")


def test_another_order_of_channels_is_a_mistake_of_the_caller(tmp_path):
    """Not of the file, which a training would skip."""
    path = saved(tmp_path / "a.png", noise(2, 2))
    with pytest.raises(ValueError, match="image_format must be RGB or BGR, not 'HSV'") as mistake:
        read_image(path, "HSV")
    assert not isinstance(mistake.value, InputError)
