"""What examples/run_onnx.py gives to a file is what our Predictor gives to the model.

From a picture's file to the normalised and padded tensor: decoding, size, resizing, order of
channels, padding and normalisation. PNG has one decoding. JPEG is decoded by OpenCV there and by
Pillow here: the wheels of both bring libjpeg-turbo, and in the versions of requirements.txt every
pixel is the same. A build with another decoder may round its inverse transform otherwise.
"""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from svit_det.cli.export_calibration import fitted
from svit_det.detection import Predictor
from svit_det.export.backbone import BackboneGraph
from svit_det.export.metadata import describe
from svit_det.images import read_image
from svit_det.vit import find_token_net
from svit_det.weights.files import write_weights

PROJECT = Path(__file__).resolve().parents[2]
# A side of the third one becomes 46.5 pixels.
SIZES = ((48, 72), (97, 61), (372, 1024), (64, 64), (31, 100))


@pytest.fixture
def stored(tmp_path):
    """Factory: a picture of smooth noise as a file, `stored(size, suffix, turned=False)`."""

    def make(size, suffix, *, turned=False):
        coarse = np.random.default_rng(7).integers(
            0, 256, (size[0] // 5 + 2, size[1] // 5 + 2, 3), dtype=np.uint8
        )
        image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if turned:
            exif[0x0112] = 6  # to be shown turned by a quarter
        path = tmp_path / f"{size[0]}_{size[1]}{suffix}"
        image.save(path, exif=exif)
        return path

    return make


@pytest.fixture
def given(run_onnx, tiny_config, tiny_model, tmp_path):
    """Factory: one file as (theirs, ours), each (1, 3, height, width), normalised and padded."""

    def make(path, channels="RGB"):
        options = ("INPUT.FORMAT", channels)
        weights = tmp_path / "model.pth"
        write_weights(tiny_model(*options).state_dict(), weights)
        predictor = Predictor(weights, cfg=tiny_config(*options), allow_untrained=True)
        about = input_of(predictor)
        image, inside = run_onnx.prepared(run_onnx.decoded(str(path))[..., ::-1], about)
        theirs = BackboneGraph(predictor.model).scale(torch.from_numpy(image))
        asked = predictor.model_input(read_image(path, "RGB"))
        assert inside == tuple(asked["image"].shape[1:])
        return theirs, predictor.model.preprocess_image([asked]).tensor

    return make


def input_of(predictor):
    """The part of an exported file's metadata that says what goes in, as the file carries it."""
    cfg, model = predictor.cfg, predictor.model
    about = describe(
        model,
        find_token_net(model),
        part="detector",
        outputs=[],
        size=(0, 0),
        batch=1,
        divisor=model.backbone.size_divisibility,
        dynamic_size=True,
        fixed_count=False,
        image_format=cfg.INPUT.FORMAT,
        sides=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        said={},
        opset=18,
        topk=True,
    )
    return json.loads(json.dumps(about))["input"]


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_the_whole_input_of_a_png_is_ours(given, stored, channels):
    for size in SIZES:
        theirs, ours = given(stored(size, ".png"), channels)
        assert torch.equal(theirs, ours), size


def test_a_turned_png_is_turned(given, stored):
    theirs, ours = given(stored((97, 61), ".png", turned=True))
    assert theirs.shape[2] < theirs.shape[3] and torch.equal(theirs, ours)


@pytest.mark.parametrize("turned", [False, True])
def test_the_whole_input_of_a_jpeg_is_ours(run_onnx, given, stored, turned):
    for size in SIZES:
        path = stored(size, ".jpg", turned=turned)
        here, there = read_image(path, "RGB"), run_onnx.decoded(str(path))[..., ::-1]
        assert np.array_equal(here, there), size
        theirs, ours = given(path)
        assert torch.equal(theirs, ours), size


@pytest.mark.parametrize("size", [(64, 96), (128, 192)], ids=["small", "large"])
def test_a_file_of_fixed_size_is_given_what_it_was_calibrated_with(
    run_onnx, tiny_config, tiny_model, stored, size
):
    """The size at test time where it fits, else the largest that fits; the rest is the mean."""
    cfg = tiny_config()
    about = input_of(Namespace(cfg=cfg, model=tiny_model())) | {"size": list(size)}
    for old in SIZES:
        image = read_image(stored(old, ".png"), "RGB")
        given, inside = run_onnx.prepared(image, about)
        at_test_time = T.ResizeShortestEdge.get_output_shape(*old, 64, 128)
        fits = at_test_time[0] <= size[0] and at_test_time[1] <= size[1]
        assert (inside == at_test_time) is fits and fits >= (size == (128, 192)), old
        assert torch.equal(torch.from_numpy(given[0]), fitted(image, cfg, size)), old


def test_the_size_is_that_of_detectron2s_rule(run_onnx):
    """Every eleventh size, and widths of 1024 and 512, where sides end in a half."""
    rule = T.ResizeShortestEdge.get_output_shape
    wide = [*range(1, 1400, 11), 512, 1024]
    for sides in ((800, 1333), (256, 256), (64, 128)):
        for height in range(1, 900, 11):
            for width in wide:
                wanted = tuple(max(side, 1) for side in rule(height, width, *sides))
                found = run_onnx.size_at_test_time(np.array([height, width]), *sides)
                assert found == wanted, (height, width, sides)


def test_a_file_that_is_no_picture_is_named(run_onnx, tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(SystemExit, match=r"a\.png is no picture that can be read"):
        run_onnx.decoded(str(tmp_path / "a.png"))
