"""Which image files are taken, and which of them."""

import pytest

from svit_det.errors import InputError
from svit_det.images import find_images, spread_out


def test_files_and_folders_each_image_once(tmp_path):
    (tmp_path / "folder" / "c.png").mkdir(parents=True)  # a folder of that name is no image
    for name in ("b.PNG", "a.tif", "notes.txt"):
        (tmp_path / "folder" / name).touch()
    odd = tmp_path / "odd.name"  # named by the user: taken as it is
    odd.touch()
    folder = tmp_path / "folder"
    expected = [folder / "b.PNG", folder / "a.tif", odd]
    assert find_images([folder / "b.PNG", str(folder), odd, odd]) == expected


def test_everything_that_is_missing_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError) as refusal:
        find_images([tmp_path / "x.png", tmp_path / "a.png", tmp_path / "y"])
    missing = [f"{tmp_path / name}: no such image or folder" for name in ("x.png", "y")]
    assert str(refusal.value) == "; ".join(missing) + "."


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match=r"no images in this folder \(\.png, "):
        find_images([tmp_path])
    with pytest.raises(InputError, match="nowhere: no such image or folder"):
        find_images([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, [*range(10)]), (99, [*range(10)])],
)
def test_some_of_them_evenly(count, expected):
    assert spread_out(range(10), count) == expected


def test_none_of_none():
    assert spread_out([], 3) == []
