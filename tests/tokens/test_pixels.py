"""TokenGrid.to_pixels: which token each pixel of a picture gets its value from."""

import numpy as np
import pytest
import torch

from svit_det.errors import InputError
from svit_det.tokens import TokenGrid

SIX = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(params=[np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def six(request):
    """The same six tokens in either kind of array."""
    return request.param(SIX)


def test_a_grid_gives_exactly_these_pixels(six):
    pixels = TokenGrid((4, 6), 2).to_pixels(six, (4, 6))
    assert type(pixels) is type(six)
    assert pixels.tolist() == [
        [1, 1, 2, 2, 3, 3],
        [1, 1, 2, 2, 3, 3],
        [4, 4, 5, 5, 6, 6],
        [4, 4, 5, 5, 6, 6],
    ]


def test_tokens_that_stick_out_are_cut_by_the_border(six):
    pixels = TokenGrid((3, 5), 2).to_pixels(six, (3, 5))
    assert pixels.tolist() == [[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]


def test_an_image_of_another_size_than_the_input(six):
    # Half the input in height: centres at input rows 1 and 3. In width 5 pixels see 6: centres at
    # 0.6, 1.8, 3.0, 4.2, 5.4, of which the last lies in the cut token.
    pixels = TokenGrid((4, 6), 2).to_pixels(six, (2, 5))
    assert pixels.tolist() == [[1, 1, 2, 3, 3], [4, 4, 5, 6, 6]]
    # Three times the input, and a last token of which only one input pixel is seen.
    pixels = TokenGrid((3, 5), 2).to_pixels(six, (9, 9))
    assert pixels[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3]
    assert pixels[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 4, 4, 4]


def test_leading_axes_are_kept():
    pixels = TokenGrid((4, 6), 2).to_pixels(np.stack([SIX, 10 * SIX]), (4, 6))
    assert pixels.shape == (2, 4, 6) and pixels[1, 3, 5] == 60


@pytest.mark.parametrize("input_size", [(4, 7), (5, 6), (2, 6)])
def test_values_of_another_grid_are_refused(six, input_size):
    with pytest.raises(ValueError, match="tokens"):
        TokenGrid(input_size, 2).to_pixels(six, (4, 6))


@pytest.mark.parametrize(("input_size", "patch_size"), [((0, 8), 8), ((8, 8), 0)])
def test_a_grid_without_tokens_is_refused(input_size, patch_size):
    with pytest.raises(InputError, match="at least 1"):
        TokenGrid(input_size, patch_size)


def test_a_picture_without_pixels_is_refused(six):
    with pytest.raises(ValueError, match="at least 1 pixel"):
        TokenGrid((4, 6), 2).to_pixels(six, (0, 6))
