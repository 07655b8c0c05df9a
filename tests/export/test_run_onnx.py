"""The steps of examples/run_onnx.py: its resizing, its padding, its pasted masks.

tests/detection/test_run_onnx_input.py compares its whole input with ours.
"""

import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
ABOUT = {
    "shorter_side": 96,
    "longest_side": 160,
    "size": None,
    "size_divisor": 16,
    "channels": "RGB",
    "mean": [120.0, 110.0, 100.0],
}


@pytest.fixture
def pixels():
    """Factory: a picture of noise."""
    return lambda *size: np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("new", [(96, 144), (32, 48), (21, 32), (7, 11), (64, 96), (101, 151)])
@pytest.mark.parametrize("old", [(64, 96), (150, 97), (300, 40), (103, 103)])
def test_a_resize_is_pillows_to_the_pixel(run_onnx, pixels, old, new):
    """Which side Pillow 13 resizes first depends on the pixels that both sides lose."""
    image = pixels(*old)
    theirs = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    assert np.array_equal(run_onnx.resized(image, *new), theirs)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_another_size_is_resized_padded_and_said(run_onnx, pixels, capsys, channels):
    about = ABOUT | {"size": [64, 64], "channels": channels}
    given, inside = run_onnx.prepared(pixels(80, 160), about)
    assert given.shape == (1, 3, 64, 64) and inside == (32, 64)
    assert "resized to fit into 64 x 64" in capsys.readouterr().out
    assert (given[0, :, 32:] == np.array(about["mean"])[:, None, None]).all()
    first = run_onnx.resized(pixels(80, 160), 32, 64)[0, 0]
    assert given[0, :, 0, 0].tolist() == (first if channels == "RGB" else first[::-1]).tolist()


def test_a_mask_is_pasted_as_by_grid_sample(run_onnx):
    torch.manual_seed(0)
    logits, box = torch.randn(28, 28), torch.tensor([3.3, -4.0, 40.7, 22.5])
    rows, columns = torch.arange(30) + 0.5, torch.arange(36) + 0.5
    y = (rows - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (columns - box[0]) / (box[2] - box[0]) * 2 - 1
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    wanted = torch.nn.functional.grid_sample(
        logits.sigmoid()[None, None], places, align_corners=False
    )
    ours = run_onnx.pasted(logits.numpy(), box.numpy(), 30, 36)
    assert np.abs(ours - wanted[0, 0].numpy()).max() < 1e-5


# ------------------------------------------------------------------ what it refuses


class Session:
    """In place of onnxruntime's: a file that says this of itself and finds nothing."""

    def __init__(self, about):
        self.about = about

    def get_modelmeta(self):
        return Namespace(custom_metadata_map={"svit_det": json.dumps(self.about)})

    def run(self, outputs, given):
        none = np.zeros((0, 28, 28))
        return np.zeros((0, 4)), none[:, 0, 0], none[:, 0, 0], none, np.ones((1, 3, 12, 18), bool)


@pytest.fixture
def example(run_onnx, monkeypatch, pixels, tmp_path):
    """Factory: runs the example on a picture, for a file that says `about` beside the usual."""
    usual = {"version": "1", "policy": "SViT", "keep_schedule": None, "train_sets": []}
    usual |= {"outputs": [], "patch_size": 8, "classes": [], "input": ABOUT, "part": "detector"}
    cv2.imwrite(str(tmp_path / "picture.png"), pixels(64, 96))

    def call(result, **about):
        made = Session(usual | about)
        monkeypatch.setattr(run_onnx.onnxruntime, "InferenceSession", lambda *_, **__: made)
        run_onnx.main("model.onnx", str(tmp_path / "picture.png"), str(tmp_path / result))

    return call


def test_a_result_is_written_or_refused(example, capsys, tmp_path):
    example("drawn.png")
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == (64, 192, 3)
    assert "SViT: 100% of all block runs; wrote " in capsys.readouterr().out
    for result in ("nowhere/drawn.png", "drawn.unknown", "drawn"):
        with pytest.raises(
            SystemExit, match=rf"{result} cannot be written; give a \.png in a fold"
        ):
            example(result)
        assert "wrote" not in capsys.readouterr().out


def test_a_backbone_is_no_detector(example, tmp_path):
    with pytest.raises(SystemExit, match=r"model\.onnx is a backbone; export it with --part det"):
        example("drawn.png", part="backbone")


def test_a_missing_or_foreign_model_is_named(run_onnx, tmp_path):
    (tmp_path / "text.onnx").write_text("text")
    for name in ("none.onnx", "text.onnx"):
        with pytest.raises(SystemExit, match=rf"{name} is missing, or is no ONNX file of svit-det"):
            run_onnx.opened(str(tmp_path / name))
