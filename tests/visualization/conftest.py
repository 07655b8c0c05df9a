"""Shared by the tests of pictures: plain images, typed-out usage, and the texts that are drawn."""

import numpy as np
import pytest

from svit_det.tokens import TokenGrid
from svit_det.visualization import UsagePicture, canvas


def plain(height, width, value=201):
    return np.full((height, width, 3), value, np.uint8)


def used_by(layers, depth):
    """keep of `layers` blocks whose first `depth[y][x]` blocks process token (y, x)."""
    return np.arange(layers)[:, None, None] < np.array(depth)


@pytest.fixture
def image_of():
    """Factory: a plain image, `image_of(height, width, value=201)`."""
    return plain


@pytest.fixture
def keep_of():
    """Factory: keep maps; each token runs through its first blocks, `keep_of(layers, depth)`."""
    return used_by


@pytest.fixture
def picture_of():
    """Factory: a picture of 256 pixels a token, `picture_of(keep, **more)`."""

    def make(keep, *, patch=256, image=None, **more):
        grid = TokenGrid.of_tokens(*keep.shape[1:], patch_size=patch)
        image = plain(*grid.input_size) if image is None else image
        return UsagePicture(image=image, keep=keep, grid=grid, **more)

    return make


@pytest.fixture
def texts(monkeypatch):
    """Every line of text that is drawn, as it was after it had been cut to its room."""
    drawn = []
    real = canvas.shortened

    def record(*args):
        drawn.append(real(*args))
        return drawn[-1]

    monkeypatch.setattr(canvas, "shortened", record)
    return drawn
