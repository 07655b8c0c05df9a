"""Text, rows and columns, and picture files that are written whole or not at all."""

import os

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.visualization import write_image
from svit_det.visualization.canvas import label, shortened, stack, text_width


def plain(height, width, value=201):
    return np.full((height, width, 3), value, np.uint8)


def test_text_is_cut_to_its_room():
    assert shortened("a\nb   c", 14, 500) == "a b c"
    cut = shortened("x" * 300, 14, 100)
    assert cut.endswith("x…") and text_width(cut, 14) <= 100
    assert label("x" * 300, 14, 100).shape[1] <= 100


def test_a_cut_line_is_as_long_as_fits():
    text = "many words " * 2000
    for room in (1, 20, 100, 1000):
        cut = shortened(text, 14, room)
        kept = len(cut) - 1
        assert text_width(cut, 14) <= room or cut == "…"
        assert text_width(text[: kept + 2].rstrip() + "…", 14) > room


def test_letters_beyond_ascii_are_drawn():
    assert not np.array_equal(label("ä", 20, 100), label("ö", 20, 100))


def test_a_stack_has_its_pictures_in_a_row_or_column():
    column = stack([plain(2, 3, 1), plain(1, 5, 2)], 0, 4, margin=1)
    assert column.shape == (2 + 4 + 1 + 2, 5 + 2, 3)
    assert (column[1:3, 1:4] == 1).all() and (column[7, 1:6] == 2).all()
    assert stack([plain(2, 3)], 1, 4, least=9).shape == (9, 3, 3)


@pytest.mark.parametrize("name", ["a.png", "b.PNG", "c.jpg", "d.jpeg"])
def test_written_images_are_read_back_in_rgb(tmp_path, name):
    image = plain(32, 48, (250, 120, 10))
    write_image(tmp_path / name, image)
    read = cv2.imread(str(tmp_path / name))[..., ::-1]
    np.testing.assert_allclose(read, image, atol=0 if name.lower().endswith("png") else 6)
    assert os.listdir(tmp_path) == [name]


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, plain(2, 2, 7))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(No space left.*\)\.$"):
        write_image(path, plain(2, 2, 9))
    assert os.listdir(tmp_path) == ["a.png"]
    assert (cv2.imread(str(path)) == 7).all()


@pytest.mark.parametrize("answer", [(False, None), cv2.error("too large")])
def test_what_cannot_be_encoded_is_said_in_a_sentence(tmp_path, monkeypatch, answer):
    def imencode(*_):
        if isinstance(answer, cv2.error):
            raise answer
        return answer

    monkeypatch.setattr(cv2, "imencode", imencode)
    with pytest.raises(InputError, match="OpenCV cannot encode it"):
        write_image(tmp_path / "a.jpg", plain(1, 1))
    assert os.listdir(tmp_path) == []


def test_unwritable_places_are_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("file/a.png", "folder.png"):
        with pytest.raises(InputError, match=rf"{name}: cannot be written \([\w ]+\)\.$"):
            write_image(tmp_path / name, plain(1, 1))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "a.tiff", "rgb": plain(1, 1)},
        {"path": "a", "rgb": plain(1, 1)},
        {"path": "a.png", "rgb": plain(1, 1)[0]},
    ],
)
def test_what_is_no_picture_or_no_name_of_one_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\.$"):
        write_image(**wrong)
