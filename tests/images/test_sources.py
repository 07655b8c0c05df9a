"""Pictures from everything that people have, and what is refused in a sentence."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from svit_det.errors import InputError
from svit_det.images import find_sources, pictures_of, read_image
from svit_det.images import open as opening
from svit_det.images import read as reading

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def names(source, **options):
    return [picture.name for picture in pictures_of(source, **options)]


def pixels(source, **options):
    return [picture.read() for picture in pictures_of(source, **options)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.png", "deep/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(path)
    return tmp_path


@pytest.fixture
def film(tmp_path):
    """Three frames, red, green and blue, as MJPEG."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    for channel in (2, 1, 0):
        frame = np.zeros((16, 32, 3), np.uint8)
        frame[:, :, channel] = 255
        writer.write(frame)
    writer.release()
    return path


def test_paths_folders_patterns_and_lists(folder):
    a, b, c = (str(folder / name) for name in ("a.png", "b.png", "deep/c.png"))
    assert names(a) == [a]
    assert names(folder) == [a, b]
    assert names(f"{folder}/**/*.png") == [a, b, c]
    assert names([c, [folder / "a.png"]]) == [c, a]
    assert (pixels(a)[0] == PIXELS).all()


@pytest.mark.parametrize("pattern", ["**", "**/*", "*"])
def test_a_pattern_yields_every_picture_once(folder, pattern):
    """It matches folders and the files in them, and files that are no pictures."""
    (folder / "notes.txt").write_text("no picture")
    (folder / "bare").mkdir()
    wanted = [str(folder / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert sorted(names(f"{folder}/{pattern}")) == wanted


def test_sources_are_files_each_once(folder, film, monkeypatch):
    monkeypatch.chdir(folder)
    given = [folder / "a.png", ".", f"{folder}/*.png", "film.avi", "./deep/../film.avi"]
    assert find_sources(given) == [str(folder / "a.png"), "b.png", "film.avi"]


def test_all_sources_that_are_missing_are_named_at_once(folder):
    (folder / "bare").mkdir()
    with pytest.raises(InputError) as refusal:
        find_sources(["x.png", folder / "a.png", folder / "bare", "no/*.png", "https://e.org/y"])
    said = str(refusal.value)
    for each in ("x.png: no such image", "bare: no images in", "no/*.png: no file", "e.org/y: a"):
        assert each in said
    assert "a.png" not in said and said.count("\n") == 0


def test_a_file_named_like_a_pattern_is_a_file(folder):
    path = folder / "a[1].png"
    Image.fromarray(PIXELS).save(path)
    assert names(path) == [str(path)]


def test_arrays_whose_order_is_said():
    assert (pixels(PIXELS, order="RGB")[0] == PIXELS).all()
    assert (pixels(PIXELS, order="BGR")[0] == PIXELS[:, :, ::-1]).all()
    assert names(np.stack([PIXELS] * 2), order="RGB") == ["array[0]", "array[1]"]
    assert names([PIXELS, [PIXELS]], order="RGB") == ["array[0]", "array[1][0]"]
    assert (pixels(PIXELS[:, :, 0])[0] == PIXELS[:, :, :1]).all()


def test_tensors_have_their_channels_first():
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    assert (pixels(tensor, order="RGB")[0] == PIXELS).all()
    assert (pixels(tensor[None], order="BGR")[0] == PIXELS[:, :, ::-1]).all()
    assert (pixels(tensor[:1])[0] == PIXELS[:, :, :1]).all()


def test_an_image_of_pillow_is_read_as_its_file_would_be(folder):
    image = Image.fromarray(PIXELS).convert("RGBA")
    image.save(folder / "d.png")
    assert (pixels(image)[0] == read_image(folder / "d.png", "RGB")).all()


def test_a_film_has_numbered_frames(film):
    assert names(film) == [f"{film}#00000{number}" for number in range(3)]
    means = [frame.mean(axis=(0, 1)).argmax() for frame in pixels(film)]
    assert means == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (PIXELS, {}, "array: say order='RGB' or order='BGR'"),
        (PIXELS, {"order": "GBR"}, "order: no 'GBR'"),
        (PIXELS, {"order": np.array(["RGB", "BGR"])}, r"order: no '\['RGB' 'BGR'\]'"),
        (PIXELS.astype(float), {"order": "RGB"}, "array: holds float64; give uint8"),
        (PIXELS[:, :, :2], {"order": "RGB"}, r"shape \(4, 6, 2\) is not \(height, width, 3\)"),
        (PIXELS[:0], {"order": "RGB"}, "array: has no pixels"),
        (torch.zeros(6, 4, 3, dtype=torch.uint8), {"order": "RGB"}, r"is not \(3, height, width\)"),
        ("https://example.org/a.png", {}, "a file is wanted, not a URL"),
        ("nowhere/*.png", {}, "no file matches this pattern"),
        ("nowhere.png", {}, "no such image or folder"),
        (99, {}, "Camera 99: there is none"),
        (None, {}, "None is no picture"),
        (3.5, {}, "A float is no picture"),
    ],
    ids=str,
)
def test_what_is_refused(source, options, message, capfd):
    with pytest.raises(InputError, match=message):
        pixels(source, **options)
    assert capfd.readouterr() == ("", "")


TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)
NO_ARRAYS = {
    "bfloat16": TENSOR.bfloat16(),
    "8-bit": TENSOR.float().to(torch.float8_e4m3fn),
    "sparse": TENSOR.to_sparse(),
    "meta": TENSOR.to("meta"),
    "a module with detach": type("Module", (), {"detach": lambda self: self})(),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_tensors_without_plain_numbers_are_refused_when_they_are_read(name):
    """The pictures beside it are still there."""
    good, bad = pictures_of([PIXELS, NO_ARRAYS[name]], order="RGB")
    assert good.read().shape == PIXELS.shape
    with pytest.raises(InputError, match=r"array\[1\]: holds .*give uint8"):
        bad.read()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"photo.jpg", "A bytes is no picture"),
        (bytearray(b"ab"), "A bytearray is no picture"),
        (memoryview(b"ab"), "A memoryview is no picture"),
        (io.BytesIO(b"photo"), "A BytesIO is no picture"),
        (io.StringIO("a\nb"), "A StringIO is no picture"),
        ({"image": PIXELS}, "A dict is no picture"),
        (PIXELS.tolist(), "A int is no picture"),
        ([[[3]]], "A int is no picture"),
        (-1, "Camera -1: cameras have numbers from 0"),
        (10**30, "cameras have numbers from 0"),
        (torch.tensor(3, dtype=torch.uint8), "is not \\(3, height, width\\)"),
        (np.array(3, np.uint8), "is not \\(height, width, 3\\)"),
        ("x" * 300, "no such image or folder"),
        ("x" * 300 + "*.png", "no file matches"),
        ("x/" * 3000, "no such image or folder"),
        ("a\0b.png", "no such image or folder"),
        ("a\0*.png", "no file matches"),
        ("\ud800.png", "no such image or folder"),
    ],
    ids=lambda each: str(each).split(" at 0x")[0][:20].encode("unicode_escape").decode(),
)
def test_what_is_no_picture_at_all(source, message):
    with pytest.raises(InputError, match=message):
        pixels(source, order="RGB")


def test_a_list_in_itself():
    source = []
    source.append(source)
    with pytest.raises(InputError, match="lists nested too deeply"):
        pixels(source)


def test_images_of_pillow_that_cannot_be_decoded(folder):
    path = folder / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    closed = Image.fromarray(PIXELS)
    closed.close()
    with Image.open(path) as cut:
        for image in (cut, closed):
            with pytest.raises(InputError, match=r"image\[0\]: the image cannot be decoded"):
                pixels([image])
    with pytest.raises(InputError, match="image: has no pixels"):
        pixels(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_colours_that_are_multiplied_by_their_alpha(mode):
    image = Image.fromarray(PIXELS).convert("RGBA" if mode == "RGBa" else "LA")
    plain, multiplied = pixels(image)[0], pixels(image.convert(mode))[0]
    assert (plain == multiplied).all()


def test_a_broken_film_is_named(tmp_path, capfd):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film")
    with pytest.raises(InputError, match="not a film that can be read"):
        names(path)
    assert capfd.readouterr().out == ""


def test_what_fails_on_the_way_may_be_noted_instead(folder, film):
    """The pictures behind it follow."""
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "bare").mkdir()
    a, b = str(folder / "a.png"), str(folder / "b.png")
    broken, bare = str(folder / "broken.mp4"), str(folder / "bare")
    noted = []
    found = pictures_of(
        [a, broken, ["x.png", bare], 99, b], failed=lambda name, error: noted.append((name, error))
    )
    assert [picture.name for picture in found] == [a, b]
    assert [name for name, _ in noted] == [broken, "x.png", bare, "camera 99"]
    assert all(isinstance(error, InputError) for _, error in noted)
    for alone in ("x.png", 99):
        with pytest.raises(InputError):
            list(pictures_of(alone, failed=lambda name, error: None))


def test_a_picture_too_large_to_read_is_named(folder, monkeypatch):
    monkeypatch.setattr(opening, "LARGEST_IMAGE", 20)
    with pytest.raises(InputError, match="6 x 4 pixels, where 20 can be read"):
        read_image(folder / "a.png", "RGB")


def test_so_is_one_that_memory_does_not_suffice_for(folder, monkeypatch):
    def fail(image):
        raise MemoryError

    monkeypatch.setattr(reading, "_plain", fail)
    with pytest.raises(InputError, match="there is no memory for this image"):
        read_image(folder / "a.png", "RGB")
