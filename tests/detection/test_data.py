"""The mapper: masks move with the pixels, unreadable images are skipped or said, never hidden."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from PIL import Image

from svit_det.detection.data import TokenDatasetMapper
from svit_det.errors import InputError

NO_FLIP = ("INPUT.RANDOM_FLIP", "none")
HALF_CROP = (
    *("INPUT.CROP.ENABLED", True),
    *("INPUT.CROP.TYPE", "relative"),
    *("INPUT.CROP.SIZE", "[0.5, 0.5]"),
)


@pytest.fixture
def record(tmp_path, polygon_of_disc, rle_of):
    """Factory: a black picture of 40 x 60 pixels with one white disc, as detectron2 records it."""

    def make(kind="polygon", *, column=21.0, row=15.0, radius=9.0, name="disc.png"):
        rows, columns = np.mgrid[:40, :60] + 0.5
        disc = (columns - column) ** 2 + (rows - row) ** 2 <= radius**2
        pixels = np.repeat(disc[..., None] * np.uint8(255), 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / name)
        polygon = polygon_of_disc(column, row, radius)
        annotation = {
            "bbox": [column - radius, row - radius, column + radius, row + radius],
            "bbox_mode": 0,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [polygon] if kind == "polygon" else rle_of(disc),
        }
        size = {"file_name": str(tmp_path / name), "height": 40, "width": 60, "image_id": 7}
        return size | {"annotations": [annotation]}

    return make


def agreement(given):
    """Intersection over union of the white pixels and the first object's mask."""
    white, mask = given["image"][0] > 127, given["instances"].gt_masks.tensor[0]
    assert white.shape == mask.shape
    return float((white & mask).sum() / (white | mask).sum())


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_masks_and_boxes_are_resized_with_the_pixels(tiny_config, record, kind):
    given = TokenDatasetMapper(tiny_config(*NO_FLIP), True)(record(kind))
    assert given["image"].shape == (3, 64, 96) and given["image"].dtype == torch.uint8
    instances = given["instances"]
    assert instances.image_size == (64, 96)
    assert instances.gt_classes.tolist() == [1]
    scaled = [1.6 * side for side in (12, 6, 30, 24)]
    assert instances.gt_boxes.tensor[0].tolist() == pytest.approx(scaled, abs=0.01)
    assert agreement(given) > 0.9


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_a_crop_cuts_masks_and_tightens_boxes(tiny_config, record, kind):
    mapper = TokenDatasetMapper(tiny_config(*NO_FLIP, *HALF_CROP), True)
    cut, sizes = 0, set()
    for _ in range(30):
        given = mapper(record(kind))
        sizes.add(tuple(given["image"].shape))
        if len(given["instances"]) == 0:
            assert (given["image"] > 127).float().mean() < 0.02
            continue
        white = given["image"][0] > 127
        if white.sum() < 200:  # a sliver, of which anti-aliasing is a large part
            continue
        assert agreement(given) > 0.85
        rows, columns = white.nonzero().unbind(1)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = given["instances"].gt_boxes.tensor[0]
        assert box.tolist() == pytest.approx([float(side) for side in tight], abs=3)
        cut += white[0].any() or white[:, 0].any() or white[-1].any() or white[:, -1].any()
    assert sizes == {(3, 64, 96)}
    assert cut >= 5


def test_a_crop_beside_the_object_leaves_none(tiny_config, record):
    mapper = TokenDatasetMapper(tiny_config(*NO_FLIP, *HALF_CROP), True)
    counts = {len(mapper(record(column=5.0, row=5.0, radius=4.0))["instances"]) for _ in range(20)}
    assert counts == {0, 1}


@pytest.mark.parametrize(
    ("flip", "corners"),
    [
        ("none", {(0, 0)}),
        ("horizontal", {(0, 0), (0, 1)}),
        ("vertical", {(0, 0), (1, 0)}),
        ("both", {(0, 0), (0, 1), (1, 0), (1, 1)}),
    ],
)
def test_flips(tiny_config, record, flip, corners):
    """A disc in the top left corner is seen in these corners, and its mask with it."""
    mapper = TokenDatasetMapper(tiny_config("INPUT.RANDOM_FLIP", flip), True)
    seen = set()
    for _ in range(24):
        given = mapper(record(column=12.0, row=12.0))
        assert agreement(given) > 0.9
        rows, columns = (given["image"][0] > 127).nonzero().float().mean(dim=0)
        seen.add((int(rows > 32), int(columns > 48)))
    assert seen == corners


def test_evaluation_only_resizes(tiny_config, record):
    mapper = TokenDatasetMapper(tiny_config("INPUT.RANDOM_FLIP", "both", *HALF_CROP), False)
    first, second = mapper(record()), mapper(record())
    assert torch.equal(first["image"], second["image"])
    assert first["image"].shape == (3, 64, 96)
    assert (first["height"], first["width"], first["image_id"]) == (40, 60, 7)
    assert "instances" not in first and "annotations" not in first


def test_the_record_itself_stays_as_it_was(tiny_config, record):
    given = record()
    TokenDatasetMapper(tiny_config(), True)(given)
    assert set(given) == {"file_name", "height", "width", "image_id", "annotations"}
    assert given["annotations"][0]["bbox"] == [12.0, 6.0, 30.0, 24.0]


# ------------------------------------------------------------------ DETR's two branches

DETR_CROP = (
    *NO_FLIP,
    *("INPUT.MIN_SIZE_TRAIN", "(64, 80)"),
    *("INPUT.MAX_SIZE_TRAIN", 100),
    *("INPUT.DETR_CROP.ENABLED", True),
    *("INPUT.DETR_CROP.MIN_SIZES", "[40, 50]"),
    *("INPUT.DETR_CROP.CROP_SIZE", "[30, 45]"),
    *("INPUT.DETR_CROP.FINAL_SIZE", 90),
)


def test_half_of_the_images_are_cropped_before_the_resize(tiny_config, record):
    """An uncropped image of 40 x 60 pixels ends up as wide as the last crop lets it be."""
    mapper = TokenDatasetMapper(tiny_config(*DETR_CROP), True)
    given = [mapper(record("rle")) for _ in range(200)]
    whole = 0
    for each in given:
        height, width = each["image"].shape[1:]
        assert max(height, width) <= 90  # the last crop
        instances = each["instances"]
        assert instances.image_size == (height, width)
        # Uncropped at the first stage: 40 x 60 pixels at a short side of 64 (67 for the long 100).
        whole += height in (64, 67) and width == 90
        if len(instances):
            white = each["image"][0] > 127
            if white.sum() > 400:
                assert agreement(each) > 0.85
            drawn = instances.gt_masks.get_bounding_boxes().tensor
            assert torch.equal(instances.gt_boxes.tensor, drawn)  # cut with the mask, and tight
    assert 60 < whole < 140


def test_the_first_branch_crops_between_the_two_sizes(tiny_config, record):
    """Without a second resize to speak of, sides come straight from the crop."""
    cfg = tiny_config(*DETR_CROP, "INPUT.DETR_CROP.FINAL_SIZE", 1000)
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)  # no resize; a config file may not ask for that
    mapper = TokenDatasetMapper(cfg, True)
    sizes = {tuple(mapper(record())["image"].shape[1:]) for _ in range(600)}
    assert (40, 60) in sizes  # the second branch leaves the image as it is
    cropped = sizes - {(40, 60)}
    assert all(30 <= height <= 45 and 30 <= width <= 45 for height, width in cropped)
    # Both ends are reached, but of heights above 40 there are none at a short side of 40.
    assert {30, 45} <= {width for _, width in cropped}
    assert {30, 40, 45} <= {height for height, _ in cropped}


def test_crops_may_lose_every_object(tiny_config, record):
    mapper = TokenDatasetMapper(tiny_config(*DETR_CROP), True)
    far = [mapper(record(column=4.0, row=4.0, radius=3.0)) for _ in range(100)]
    counts = {len(each["instances"]) for each in far}
    assert counts == {0, 1}


def test_small_images_are_smaller_than_the_crop(tiny_config, record):
    options = ("INPUT.DETR_CROP.MIN_SIZES", "[8]", "INPUT.DETR_CROP.CROP_SIZE", "[30, 45]")
    mapper = TokenDatasetMapper(tiny_config(*DETR_CROP, *options), True)
    for _ in range(20):
        assert max(mapper(record())["image"].shape[1:]) <= 90


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1), (1, 1)])
def test_lines_of_one_pixel(tiny_config, tmp_path, shape):
    """At the recipe's own sizes: 400 pixels of height would be 8 million of width."""
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "line.png")
    size = {"height": shape[0], "width": shape[1], "image_id": 1, "annotations": []}
    mapper = TokenDatasetMapper(tiny_config("INPUT.DETR_CROP.ENABLED", True), True)
    for _ in range(10):
        given = mapper({"file_name": str(tmp_path / "line.png"), **size})
        assert min(given["image"].shape[1:]) >= 1 and max(given["image"].shape[1:]) <= 128


def test_evaluation_crops_nothing(tiny_config, record):
    given = TokenDatasetMapper(tiny_config(*DETR_CROP), False)(record())
    assert given["image"].shape == (3, 64, 96)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("INPUT.DETR_CROP.CROP_SIZE", "[45]"), "INPUT.DETR_CROP.CROP_SIZE"),
        (("INPUT.DETR_CROP.CROP_SIZE", "[45, 30]"), "INPUT.DETR_CROP.CROP_SIZE"),
        (("INPUT.DETR_CROP.MIN_SIZES", "[]"), "INPUT.DETR_CROP.MIN_SIZES: []"),
        (("INPUT.DETR_CROP.FINAL_SIZE", 0), "INPUT.DETR_CROP.FINAL_SIZE: 0"),
        (("INPUT.CROP.ENABLED", True), "choose one of them"),
    ],
)
def test_wrong_detr_crop(tiny_config, options, said):
    with pytest.raises(InputError) as refusal:
        TokenDatasetMapper(tiny_config(*DETR_CROP, *options), True)
    assert said in str(refusal.value)


# ------------------------------------------------------------------ annotations of other kinds


@pytest.mark.parametrize("crop", [(), HALF_CROP], ids=["whole", "crop"])
def test_no_annotations(tiny_config, record, crop):
    given = TokenDatasetMapper(tiny_config(*crop), True)(record() | {"annotations": []})
    assert len(given["instances"]) == 0
    assert given["instances"].image_size == (64, 96)


@pytest.mark.parametrize("crop", [(), HALF_CROP], ids=["whole", "crop"])
def test_an_image_of_crowd_regions_only(tiny_config, record, crop):
    crowd = record("rle")
    crowd["annotations"][0]["iscrowd"] = 1
    assert len(TokenDatasetMapper(tiny_config(*crop), True)(crowd)["instances"]) == 0


def test_crowd_regions_are_no_objects(tiny_config, record):
    mapper = TokenDatasetMapper(tiny_config(), True)
    crowd = record("rle")
    crowd["annotations"][0]["iscrowd"] = 1
    both = record("rle")
    both["annotations"] += crowd["annotations"]
    assert len(mapper(both)["instances"]) == 1


def test_rle_where_polygons_are_wanted(tiny_config, record):
    mapper = TokenDatasetMapper(tiny_config("INPUT.MASK_FORMAT", "polygon"), True)
    assert len(mapper(record("polygon"))["instances"].gt_masks) == 1
    with pytest.raises(InputError, match=r"disc\.png.*INPUT\.MASK_FORMAT bitmask"):
        mapper(record("rle"))


def test_boxes_only(tiny_config, record):
    given = TokenDatasetMapper(tiny_config("MODEL.MASK_ON", False, *HALF_CROP), True)(record())
    assert not given["instances"].has("gt_masks")


@pytest.mark.parametrize("is_train", [True, False])
def test_another_size_than_the_annotations_say(tiny_config, record, is_train):
    wrong = record() | {"height": 60, "width": 40}
    with pytest.raises(InputError, match=r"disc\.png: 60 x 40 pixels.*say 40 x 60"):
        TokenDatasetMapper(tiny_config(), is_train)(wrong)


# ------------------------------------------------------------------ unreadable images


def broken(record, tmp_path, name="broken.png"):
    """A record whose file is cut in the middle."""
    given = record(name=name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    return given


def test_training_skips_an_unreadable_image_and_counts(tiny_config, record, tmp_path, caplog):
    mapper = TokenDatasetMapper(tiny_config(), True)
    with caplog.at_level(logging.WARNING, logger="svit_det"):
        assert mapper(broken(record, tmp_path)) is None
        assert mapper(record() | {"file_name": str(tmp_path / "missing.png")}) is None
        assert mapper(record()) is not None
    said = [entry.getMessage() for entry in caplog.records]
    first, second = (each for each in said if "so far" in each)
    assert "1 so far" in first and "broken.png" in first
    assert "2 so far" in second and "missing.png" in second


def test_evaluation_stops_at_an_unreadable_image(tiny_config, record, tmp_path):
    mapper = TokenDatasetMapper(tiny_config(), False)
    with pytest.raises(InputError, match=r"broken\.png"):
        mapper(broken(record, tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_draws_another_image(tiny_config, record, tmp_path, workers):
    """Batches stay full, and the count is that of all loader processes together."""
    records = [broken(record, tmp_path)] + [record(name=f"{i}.png") for i in range(3)]
    mapper = TokenDatasetMapper(tiny_config(), True)
    loader = build_detection_train_loader(
        records, mapper=mapper, total_batch_size=4, num_workers=workers
    )
    batches = iter(loader)
    names = [given["file_name"] for _ in range(4) for given in next(batches)]
    del batches
    assert len(names) == 16
    assert not any("broken" in name for name in names)
    # An epoch has four images, one of them unreadable.
    assert mapper._skipped.value >= 3
