"""Ranges of the benchmark's 8-bit files come from other inputs than those that are timed."""

import pytest
import torch
from PIL import Image

from svit_det.cli import benchmark_exports
from svit_det.cli.benchmark_calibration import calibration_for
from svit_det.cli.benchmark_inputs import make_images
from svit_det.cli.benchmark_models import read_configs
from svit_det.cli.export_calibration import NUMBER

SIZE = (32, 48)
SMALL = (
    *("MODEL.VIT.DEPTH", "3", "MODEL.TOKEN_POLICY.LAYERS", "[1,2]"),
    *("MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7,0.5]"),
)
TRAINED = ("MODEL.WEIGHTS", "some.safetensors")


@pytest.fixture
def folder(tmp_path):
    """Factory: a folder with as many pictures, each of a grey of its own."""

    def make(name, number):
        (tmp_path / name).mkdir()
        for grey in range(number):
            Image.new("RGB", (48, 32), (grey, grey, grey)).save(tmp_path / name / f"{grey:02}.png")
        return tmp_path / name

    return make


@pytest.fixture
def calibrated(tiny_arguments):
    """Factory: the calibration of a command line, its config and its arguments."""

    def make(*options, overrides=()):
        args = tiny_arguments("--runtime", "onnxruntime-int8", *options, overrides=overrides)
        (cfg,) = read_configs(args)
        return calibration_for(cfg, args, SIZE), cfg, args

    return make


def greys(images, cfg):
    """The grey of each one-coloured picture, from the normalised pixels."""
    mean, std = cfg.MODEL.PIXEL_MEAN[0], cfg.MODEL.PIXEL_STD[0]
    return [round(float(each[0, 0, 0, 0]) * std + mean) for each in images]


def training_set(path):
    return ("DATASETS.COCO_FORMAT", f"[['mine','{path}/x.json','{path}']]")


def test_noise_is_another_than_the_timed_one(calibrated):
    found, cfg, args = calibrated()
    assert found.said == {"inputs": "noise, another than the timed one", "number": NUMBER}
    assert all(each.shape == (1, 3, *SIZE) for each in found.images)
    args.images = NUMBER
    timed = make_images(cfg, args, 1, SIZE)
    assert not any(torch.equal(one, other) for one in found.images for other in timed)


def test_trained_weights_are_calibrated_on_their_training_set(calibrated, folder):
    train, val = folder("train", 40), folder("val", 3)
    overrides = (*TRAINED, *training_set(train), "DATASETS.TRAIN", "('mine',)")
    found, cfg, _ = calibrated("--image-folder", str(val), overrides=overrides)
    assert found.said == {"inputs": "pictures of the training set mine", "number": NUMBER}
    chosen = greys(found.images, cfg)
    assert chosen == sorted(set(chosen)) and chosen[0] == 0 and chosen[-1] == 39
    # Timed pictures are left out of the training set too.
    found, cfg, _ = calibrated("--image-folder", str(train), overrides=overrides)
    assert greys(found.images, cfg)[0] == 1 and len(found.images) == NUMBER


@pytest.mark.parametrize("overrides", [(), (*TRAINED, *training_set("nowhere"))])
def test_without_a_training_set_other_pictures_of_the_folder_serve(calibrated, folder, overrides):
    found, cfg, args = calibrated("--image-folder", str(folder("val", 5)), overrides=overrides)
    assert found.said["inputs"] == "other pictures of --image-folder than the timed ones"
    timed = greys(make_images(cfg, args, 1, SIZE), cfg)
    assert set(greys(found.images, cfg)) == set(range(5)) - set(timed)


def test_a_folder_of_timed_pictures_alone_leaves_noise(calibrated, folder):
    found, _, _ = calibrated("--image-folder", str(folder("val", 1)))
    assert found.said["inputs"].startswith("noise")


@pytest.mark.long
def test_a_whole_run_says_what_it_was_calibrated_on(tiny, monkeypatch):
    given, timed = [], []

    def quantised(*args, **options):
        given.extend(options["pictures"])
        return before(*args, **options)

    def compared(module, run, tensors):
        timed.extend(tensors)
        return compare(module, run, tensors)

    before, compare = benchmark_exports.write_int8, benchmark_exports.compare
    monkeypatch.setattr(benchmark_exports, "write_int8", quantised)
    monkeypatch.setattr(benchmark_exports, "compare", compared)
    ran = tiny(
        *("--parts", "blocks", "--runtime", "onnxruntime-int8", "--tokens", "4", "6"),
        overrides=SMALL,
    )
    (row,) = ran.results["runtimes"]
    budgets = {arm["budget"] for arm in row["arms"]}
    assert row["int8_calibration"]["number"] == NUMBER
    assert len(budgets) == 3 and len(given) == NUMBER * len(budgets)
    assert timed and given[0].shape == timed[0].shape
    assert not any(torch.equal(one, other) for one in given for other in timed)
