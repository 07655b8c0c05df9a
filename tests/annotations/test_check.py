"""Every kind of entry that a COCO json should not have is found, counted and named by its id."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from svit_det.annotations import Demands, examine
from svit_det.annotations.runs import texts_problems
from svit_det.errors import InputError
from svit_det.images import LARGEST_IMAGE

POLYGON = [2.0, 2.0, 12.0, 2.0, 12.0, 10.0]
FAR = [2.0, 2.0, 12.0, 2.0, 1e6, 10.0]


def annotation(number, **fields):
    usual = {"id": number, "image_id": 1 + number % 2, "category_id": 3, "iscrowd": 0}
    usual |= {"bbox": [2, 2, 10, 8], "area": 40.5, "segmentation": [POLYGON]}
    return usual | fields


@pytest.fixture
def content(tmp_path):
    """A good set of two images, 20 x 30 and 30 x 20, and 4 objects."""
    for number, (height, width) in enumerate([(20, 30), (30, 20)], start=1):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return {
        "images": [
            {"id": 1, "file_name": "1.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "2.png", "height": 30, "width": 20},
        ],
        "annotations": [annotation(number) for number in (1, 2, 3, 4)],
        "categories": [{"id": 3, "name": "disc"}],
    }


@pytest.fixture
def judge(tmp_path):
    """Factory: what `examine` makes of a content."""

    def run(content, *, evaluated=True, masks=True, num_classes=1):
        path = tmp_path / "set.json"
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        demands = Demands(trained=True, evaluated=evaluated, masks=masks, num_classes=num_classes)
        return examine(str(path), str(tmp_path), demands)

    return run


def test_an_id_that_would_clear_the_terminal(judge, content):
    content["images"].append({"id": "\x1b[2J\x1b]0;owned\x07", "file_name": "1.png"})
    problems = judge(content).problems()
    assert problems.isprintable() and r"(id \x1b[2J\x1b]0;owned\x07)" in problems


def test_entries_alone_without_their_images_or_a_number_of_classes(content, tmp_path):
    path = tmp_path / "set.json"
    demands = Demands(trained=False, evaluated=False, masks=False, num_classes=None)
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    del content["annotations"][1]["bbox"]
    path.write_text(json.dumps(content))
    examined = examine(str(path), None, demands)
    assert not examined.is_whole and "without 'bbox' (id 2)" in examined.problems()
    assert [entry["id"] for entry in examined.usable("annotations")] == [1, 3, 4]
    assert examined.usable("images") == content["images"]


def test_a_good_set(judge, content):
    examined = judge(content)
    assert examined.is_whole and examined.findings.oddities() == []
    assert examined.trainable == 4


# ------------------------------------------------------------------ the file

TEXT = '{"images": [], "annotations": [], "categories": [{"id": 3, "name": "ü"}]}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.encode("utf-16"), "is encoded as UTF-16"),
        (TEXT.encode("utf-16-le"), "is encoded as UTF-16"),
        (TEXT.encode("utf-32"), "is encoded as UTF-32"),
        (TEXT.encode("utf-8-sig"), "is encoded as UTF-8 with a byte-order mark"),
        (TEXT.encode("latin-1"), "not a json file in UTF-8"),
        (TEXT[:-1], "not a json file"),
        (TEXT.replace("images", "categories"), "says 'categories' twice"),
        (TEXT.replace('"id": 3', '"id": 3, "id": 4'), "says 'id' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "not a json file"),
        ("[1]", "has no list 'images'"),
    ],
    ids=str.split("utf16 utf16le utf32 mark latin cut twice twice-in-entry deep number list"),
)
def test_a_file_that_later_readers_would_misread(judge, text, said):
    with pytest.raises(InputError) as refusal:
        judge(text)
    assert "set.json: " in str(refusal.value) and said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_last_of_many_keys_is_there_twice(judge):
    """Comparing every key with every other key would take a day."""
    keys = [*range(400_000), 399_999]
    with pytest.raises(InputError, match="says '399999' twice"):
        judge("{" + ", ".join(f'"{key}": 0' for key in keys) + "}")


def test_a_folder_is_no_json(tmp_path):
    demands = Demands(trained=True, evaluated=True, masks=True, num_classes=1)
    for path in (str(tmp_path), "/dev/zero"):
        with pytest.raises(InputError) as refusal:
            examine(path, str(tmp_path), demands)
        wanted = f"{path}: a folder or a device, not a json file; name the file."
        assert str(refusal.value) == wanted


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "the category id 3 is there twice"),
        ([{"id": 3, "name": "a"}, {"id": 4, "name": "a"}], "id 4 has the name of another one"),
        ([{"id": "3", "name": "a"}], "id 3 has no 'id' that is a whole number"),
        ([{"id": True, "name": "a"}], "has no 'id' that is a whole number"),
        ([{"id": [3], "name": "a"}], "entry 1 of the list has no 'id'"),
        ([{"id": 3, "name": 4}], "id 3 has no 'name'"),
        ([{"id": 3, "name": " "}], "id 3 has no 'name'"),
        ([{"id": 3, "name": "a\ud800"}], "id 3 has a 'name' with half a character in it"),
        ([{"id": 3, "name": "a\x1b[2J"}], "'a\\x1b[2J' with characters that control a terminal"),
        ([{"id": 3, "name": "a\u202eb"}], "'a\\u202eb' with characters that control a terminal"),
        ([7], "entry 1 of the list has no 'id'"),
    ],
)
def test_categories_have_to_be_right(judge, content, categories, said):
    """Leaving one out would change what the labels mean."""
    content["categories"] = categories
    with pytest.raises(InputError) as refusal:
        judge(content, num_classes=len(categories))
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["traffic\u00a0light", "\u0645\u06cc\u200c\u0634", "co\u00adop", "\ufeffa"]
)
def test_a_name_may_hold_marks_that_are_not_seen(judge, content, name):
    content["categories"][0]["name"] = name
    assert judge(content)


# ------------------------------------------------------------------ images


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "2"}, "with an 'id' that is not a whole number"),
        ({"id": [2]}, "with an 'id' that is not a whole number"),
        ({"id": 2.0}, "with an 'id' that is not a whole number"),
        ({"id": 10**20}, "with an 'id' that is not a whole number"),
        ({"file_name": 2}, "with a 'file_name' that no file can have"),
        ({"file_name": ""}, "with a 'file_name' that no file can have"),
        ({"file_name": "a\0.png"}, "with a 'file_name' that no file can have"),
        ({"file_name": "\ud800.png"}, "with a 'file_name' that no file can have"),
        ({"file_name": None}, "without 'file_name'"),
        ({"file_name": "3.png"}, "of which there is no file"),
        ({"file_name": "cut.png"}, "whose file cannot be read"),
        ({"height": 0}, "with a 'height' or 'width'"),
        ({"height": 30.0}, "with a 'height' or 'width'"),
        ({"width": "20"}, "with a 'height' or 'width'"),
        ({"width": True}, "with a 'height' or 'width'"),
        ({"width": LARGEST_IMAGE}, "of more than 178,956,970 pixels"),
        ({"width": 21}, "of another size than their file"),
    ],
)
def test_images(judge, content, tmp_path, fields, said):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    content["images"][1] |= fields
    examined = judge(content)
    (problem,) = examined.findings.refused("images").values()
    assert said in problem
    assert examined.findings.refused("annotations").keys() == {0, 2}  # its own
    assert examined.trainable == 2
    assert said in examined.problems()


def test_two_images_of_one_id_are_both_out(judge, content):
    """Nobody knows which of the two its annotations mean."""
    content["images"].append({**content["images"][0], "file_name": "2.png"})
    examined = judge(content)
    assert examined.problems().startswith(
        "2 of 3 images and 2 of 4 annotations cannot be used: 2 images with an 'id' that another "
        "image has too (id 1, id 1); 2 annotations of an image that cannot be used (id 2, id 4)"
    )


def test_an_entry_that_is_no_object(judge, content):
    content["images"].append(7)
    content["annotations"].append("x")
    said = judge(content).problems()
    assert said.startswith("1 of 3 images and 1 of 5 annotations cannot be used")
    assert "(entry 3 of the list)" in said and "(entry 5 of the list)" in said


def test_a_training_skips_images_without_a_file(judge, content, tmp_path):
    (tmp_path / "2.png").write_bytes(b"")
    examined = judge(content, evaluated=False)
    assert examined.is_whole
    assert examined.findings.oddities() == [
        "1 image whose file cannot be read, which training skips (id 2)"
    ]


def test_a_picture_that_exif_turns(judge, content, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 30, 3), np.uint8)
    for name in ("1.jpg", "1.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif.tobytes())
        content["images"][0] |= {"file_name": name, "height": 30, "width": 20}
        assert judge(content).is_whole
    content["images"][0] |= {"file_name": "1.jpg", "height": 20, "width": 30}
    assert "of another size than their file (id 1)" in judge(content).problems()


@pytest.mark.parametrize("name", ["1.png", "1.PNG", "1.bmp", "1.jpg"])
def test_height_and_width_that_are_swapped(judge, content, tmp_path, name):
    """Nothing turns the picture."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / name)
    content["images"][0] |= {"file_name": name, "height": 30, "width": 20}
    assert "of another size than their file (id 1)" in judge(content).problems()


def test_an_orientation_behind_the_pixels(judge, content, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "1.png", exif=exif)
    png = (tmp_path / "1.png").read_bytes()
    begin = png.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(png[begin : begin + 4], "big")
    last = png.index(b"IEND") - 4
    moved = png[:begin] + png[end:last] + png[begin:end] + png[last:]
    (tmp_path / "1.png").write_bytes(moved)
    content["images"][0] |= {"file_name": "1.png", "height": 30, "width": 20}
    assert judge(content).is_whole


# ------------------------------------------------------------------ annotations

NAN, INFINITE = float("nan"), float("inf")
WHOLE = {"size": [30, 20], "counts": [0, 600]}
BAD = [
    ({"id": "1"}, "with an 'id' that is not a whole number"),
    ({"id": True}, "with an 'id' that is not a whole number"),
    ({"id": 4}, "with an 'id' that an annotation before has"),
    ({"id": 0}, "with the id 0"),
    ({"image_id": 9}, "of an image that is not listed"),
    ({"image_id": [1]}, "of an image that is not listed"),
    ({"category_id": 1}, "of a category that is not listed"),
    ({"category_id": {}}, "of a category that is not listed"),
    ({"bbox": [1, 2, 3]}, "with a 'bbox' that is not four numbers"),
    ({"bbox": "1234"}, "with a 'bbox' that is not four numbers"),
    ({"bbox": ["1", "2", "3", "4"]}, "with a 'bbox' that is not four numbers"),
    ({"bbox": [1, 2, True, 4]}, "with a 'bbox' that is not four numbers"),
    ({"bbox": [[1], 2, 3, 4]}, "with a 'bbox' that is not four numbers"),
    ({"bbox": [1, NAN, 3, 4]}, "with nan, infinity or an absurd number in 'bbox'"),
    ({"bbox": [1, 2, INFINITE, 4]}, "with nan, infinity or an absurd number in 'bbox'"),
    ({"bbox": [1, 2, 10**400, 4]}, "with nan, infinity or an absurd number in 'bbox'"),
    ({"bbox": [1, 2, 3, -4]}, "with a box of negative size"),
    ({"bbox": [1, 2, 3000, 4]}, "with a box that reaches far beyond its image"),
    ({"bbox": [25, 2, 3, 4]}, "with a box outside its image"),
    ({"area": -1}, "with an 'area'"),
    ({"area": NAN}, "with an 'area'"),
    ({"area": "9"}, "with an 'area'"),
    ({"iscrowd": 2}, "with an 'iscrowd' other than 0 and 1"),
    ({"iscrowd": "0"}, "with an 'iscrowd' other than 0 and 1"),
    ({"iscrowd": []}, "with an 'iscrowd' other than 0 and 1"),
    ({"ignore": 1}, "with 'ignore'"),
    ({"keypoints": ["a"]}, "with 'keypoints'"),
    ({"keypoints": [1, 2, 10**400]}, "an absurd number in 'keypoints'"),
    ({"keypoints": [1, 2, float("nan")]}, "an absurd number in 'keypoints'"),
    ({"segmentation": []}, "without segmentation"),
    ({"segmentation": [[]]}, "without one polygon of three corners"),
    ({"segmentation": [[1, 1, 2, 2]]}, "without one polygon of three corners"),
    ({"segmentation": [[1, 1, 2, 2, 3, 3, 4]]}, "without one polygon of three corners"),
    ({"segmentation": [[1, 1, 2, 2], POLYGON]}, "whose first polygon has fewer than three"),
    ({"segmentation": POLYGON}, "with a polygon that is not a list of numbers"),
    ({"segmentation": ["abcdef"]}, "with a polygon that is not a list of numbers"),
    ({"segmentation": [["1"] * 6]}, "with a polygon that is not a list of numbers"),
    ({"segmentation": [[*POLYGON[:-1], NAN]]}, "with nan, infinity or an absurd number in a poly"),
    ({"segmentation": [[NAN, *POLYGON[1:]]]}, "with nan, infinity or an absurd number in a poly"),
    ({"segmentation": [[*POLYGON, -INFINITE, 3]]}, "with nan, infinity or an absurd number"),
    ({"segmentation": [[*POLYGON, 1e300, -1e300]]}, "with nan, infinity or an absurd number"),
    ({"segmentation": [POLYGON, FAR]}, "with a polygon that reaches far beyond its image"),
    ({"segmentation": [[0, 0, 20, 20] * 60_000]}, "with an outline of more than 1,000,000 pixels"),
    ({"segmentation": "runs"}, "with a 'segmentation' that is neither polygons nor runs"),
    ({"segmentation": 3}, "with a 'segmentation' that is neither polygons nor runs"),
    ({"segmentation": WHOLE | {"size": [20, 30]}}, "with a mask of another size than its image"),
    ({"segmentation": WHOLE | {"size": 30}}, "with a mask whose 'size' is not [height, width]"),
    ({"segmentation": WHOLE | {"size": [30.0, 20]}}, "with a mask whose 'size' is not"),
    ({"segmentation": {"size": [30, 20]}}, "with mask runs that are neither text nor"),
    ({"segmentation": WHOLE | {"counts": [0.0, 600]}}, "with mask runs that are neither text nor"),
    ({"segmentation": WHOLE | {"counts": []}}, "with mask runs that are neither text nor"),
    ({"segmentation": WHOLE | {"counts": [0, 601]}}, "with mask runs that do not add up"),
    ({"segmentation": WHOLE | {"counts": [-1, 601]}}, "with mask runs that do not add up"),
    ({"segmentation": WHOLE | {"counts": ""}}, "with mask runs that are no RLE text"),
    ({"segmentation": WHOLE | {"counts": "ü"}}, "with mask runs that are no RLE text"),
    ({"segmentation": WHOLE | {"counts": "P"}}, "with mask runs that are no RLE text"),
    ({"segmentation": WHOLE | {"counts": "ooooooooooooo1"}}, "with mask runs that are no RLE"),
    ({"segmentation": WHOLE | {"counts": "11"}}, "with mask runs that do not add up"),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_annotations(judge, content, fields, said):
    content["annotations"].append(annotation(5) | fields)
    examined = judge(content)
    assert examined.findings.refused("images") == {}
    (problem,) = examined.findings.refused("annotations").items()
    assert problem[0] == 4 and said in problem[1]
    assert examined.trainable == 4
    assert examined.problems().startswith("1 of 5 annotations cannot be used: 1 annotation w") or (
        "1 annotation of" in examined.problems()
    )


@pytest.mark.parametrize("fields", [{"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 0]}, {"iscrowd": 1}])
def test_a_bad_text_of_what_no_training_counts(judge, content, fields):
    """Nothing is taken from the number of good objects for it."""
    bad = annotation(5) | {"segmentation": WHOLE | {"counts": "P"}} | fields
    content["annotations"].append(bad)
    examined = judge(content)
    assert "no RLE text" in examined.problems()
    assert examined.trainable == 4


@pytest.mark.parametrize("field", ["id", "image_id", "category_id", "bbox", "area", "iscrowd"])
def test_a_missing_field(judge, content, field):
    del content["annotations"][2][field]
    assert f"1 annotation without '{field}' (" in judge(content).problems()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bbox": [1, 2, 0, 4]}, "a box without size"),
        ({"bbox": [1, 2, 24, 4]}, "a box that reaches beyond its image"),
        ({"segmentation": [POLYGON, [1, 2]]}, "a polygon of fewer than three corners"),
    ],
)
def test_what_coco_itself_has_is_said_and_used(judge, content, fields, said):
    content["annotations"][0] |= fields
    examined = judge(content)
    assert examined.is_whole
    (oddity,) = examined.findings.oddities()
    assert said in oddity and oddity.endswith("(id 1)")


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": WHOLE},
        {"segmentation": [POLYGON, POLYGON]},
        {"iscrowd": 1, "segmentation": WHOLE},
        {"iscrowd": False},
        {"bbox": [-1.5, 0, 10.5, 8]},
        {"ignore": 0},
        {"keypoints": [1, 2, 2]},
        {"keypoints": []},
    ],
)
def test_what_is_right(judge, content, fields):
    content["annotations"][0] |= fields
    assert judge(content).is_whole


def test_a_training_of_boxes_asks_for_less(judge, content):
    for each in content["annotations"]:
        del each["segmentation"], each["area"], each["iscrowd"]
    assert judge(content, evaluated=False, masks=False).is_whole


def test_many_kinds_are_counted_and_the_first_are_named(judge, content):
    wrong = [annotation(number) | fields for number, (fields, _) in enumerate(BAD[5:40], start=10)]
    wrong += [annotation(number) | {"area": -1} for number in range(100, 120)]
    content["annotations"] += wrong
    said = judge(content).problems()
    assert said.startswith(f"{len(wrong)} of {len(wrong) + 4} annotations cannot be used: ")
    assert "1 annotation of an image that is not listed (id 10)" in said
    assert "more kinds of problems" in said and len(said) < 600


# ------------------------------------------------------------------ runs against pycocotools


def test_runs_as_pycocotools_writes_them():
    random = np.random.default_rng(0)
    texts, pixels = [], []
    for _ in range(300):
        height, width = random.integers(1, 40, 2)
        mask = random.random((height, width)) < random.choice([0, 0.02, 0.5, 0.98, 1])
        texts.append(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())
        pixels.append(height * width)
    assert texts_problems(texts, pixels) == [None] * 300
    assert None not in texts_problems(texts, [count + 1 for count in pixels])
    # One that is cut does not disturb its neighbours.
    cut = [text[:-1] if number % 3 == 1 else text for number, text in enumerate(texts)]
    for number, problem in enumerate(texts_problems(cut, pixels)):
        assert (problem is None) == (number % 3 != 1)


def test_large_runs():
    """Counts of five characters, as in masks of whole photographs."""
    mask = np.zeros((3000, 4000), np.uint8, order="F")
    mask[5:2900, 100:3900] = 1
    text = coco_mask.encode(mask)["counts"].decode()
    assert texts_problems([text], [12_000_000]) == [None]


def test_no_runs_at_all():
    assert texts_problems([], []) == []


# ------------------------------------------------------------------ the set without them


def test_names_of_offenders_are_short(judge, content):
    content["annotations"][0]["id"] = "x" * 1000
    assert len(judge(copy.deepcopy(content)).problems()) < 300


@pytest.mark.parametrize("nothing", [{}, [], "", None])
def test_an_empty_mask_is_none_where_none_is_needed(content, tmp_path, nothing):
    content["annotations"][0]["segmentation"] = nothing
    (tmp_path / "set.json").write_text(json.dumps(content))
    demands = Demands(trained=False, evaluated=False, masks=False, num_classes=None)
    assert examine(str(tmp_path / "set.json"), None, demands).is_whole
