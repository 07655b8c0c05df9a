"""Pictures on their way into the model: as detectron2 reads them, and of extreme shapes."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.events import EventStorage
from PIL import Image

from svit_det.detection.data import TokenDatasetMapper
from svit_det.images import read_image


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "grey.png"])
def test_pixels_are_detectron2s_to_the_byte(tmp_path, image_format, name):
    pixels = noise(17, 23)
    Image.fromarray(pixels[..., 0] if name == "grey.png" else pixels).save(tmp_path / name)
    ours = read_image(tmp_path / name, image_format)
    with Image.open(tmp_path / name) as image:
        theirs = convert_PIL_to_numpy(image, image_format)
    assert ours.dtype == theirs.dtype and ours.strides == theirs.strides
    np.testing.assert_array_equal(ours, theirs)


# ------------------------------------------------------------------ extreme shapes


def record_of(path, height, width):
    """As detectron2's catalogue has it: one object that is all of the image."""
    corners = [0, 0, width, 0, width, height, 0, height]
    annotation = {
        "bbox": [0, 0, width, height],
        "bbox_mode": 1,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [corners],
    }
    record = {"file_name": str(path), "height": height, "width": width, "image_id": 1}
    return record | {"annotations": [annotation]}


@pytest.mark.parametrize(
    ("height", "width", "seen"),
    [
        (1, 1, (64, 64)),
        (1, 20_000, (1, 128)),
        (12, 20_000, (1, 128)),
        (20_000, 1, (128, 1)),
        (3, 200, (2, 128)),
    ],
)
def test_extreme_shapes_through_mapper_and_model(
    tiny_config, tiny_model, tmp_path, height, width, seen
):
    path = tmp_path / "a.png"
    Image.fromarray(np.resize(noise(16, 16), (height, width, 3))).save(path)
    model = tiny_model()
    record = record_of(path, height, width)
    crop = (
        "INPUT.CROP.ENABLED",
        True,
        "INPUT.CROP.TYPE",
        "relative",
        "INPUT.CROP.SIZE",
        "[0.3, 0.3]",
    )
    for options in ((), crop):
        given = TokenDatasetMapper(tiny_config(*options), True)(record)
        assert min(given["image"].shape) >= 1
        with EventStorage():
            losses = model.train()([given])
        assert all(loss.isfinite() for loss in losses.values())

    given = TokenDatasetMapper(tiny_config(), False)(record)
    assert given["image"].shape == (3, *seen)
    with torch.no_grad():
        (output,) = model.eval()([given])
    assert output["token_usage"].shape == (3, -(-seen[0] // 8), -(-seen[1] // 8))
    assert output["instances"].image_size == (height, width)
    assert output["instances"].pred_masks.shape[1:] == (height, width)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("flip", ["horizontal", "vertical", "both"])
def test_flips_of_one_row(tiny_config, tmp_path, height, width, flip):
    """NumPy calls such an array contiguous although it runs backwards, and torch refuses it."""
    path = tmp_path / "a.png"
    Image.fromarray(np.resize(noise(16, 16), (height, width, 3))).save(path)
    mapper = TokenDatasetMapper(tiny_config("INPUT.RANDOM_FLIP", flip), True)
    for _ in range(8):  # each is drawn with one half
        assert mapper(record_of(path, height, width))["image"].min() >= 0
