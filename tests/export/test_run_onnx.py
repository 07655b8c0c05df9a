"""The steps of examples/run_onnx.py: its resizing, its padding, its pasted masks.

tests/detection/test_run_onnx_input.py compares its whole input with ours.
"""

from pathlib import Path

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
