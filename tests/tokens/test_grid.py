"""TokenGrid: its shape, and pixel masks brought to it; patches of 2 x 2 pixels."""

import numpy as np
import pytest
import torch

from svit_det.tokens import TokenGrid


def coverage(rows, *, input_size, patch_size=2):
    mask = torch.tensor(rows, dtype=torch.bool)
    return TokenGrid(input_size, patch_size).coverage(mask).tolist()


@pytest.mark.parametrize(
    ("input_size", "patch_size", "shape"),
    [((4, 6), 2, (2, 3)), ((3, 7), 2, (2, 4)), ((1, 1), 16, (1, 1)), ((17, 16), 16, (2, 1))],
)
def test_a_token_that_sticks_out_counts(input_size, patch_size, shape):
    grid = TokenGrid(input_size, patch_size)
    assert grid.shape == shape
    assert grid.num_tokens == shape[0] * shape[1]


def test_a_grid_of_whole_tokens():
    assert TokenGrid.of_tokens(2, 3) == TokenGrid((2, 3), 1)
    grid = TokenGrid.of_tokens(2, 3, patch_size=16)
    assert grid == TokenGrid((32, 48), 16)
    assert grid.shape == (2, 3)


def test_the_share_of_covered_pixels():
    rows = [
        [1, 1, 1, 0],
        [1, 1, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    ]
    assert coverage(rows, input_size=(4, 4)) == [[1.0, 0.5], [0.0, 0.25]]


def test_pixels_beyond_the_image_do_not_count():
    rows = [
        [1, 1, 0, 0, 1],
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]
    assert coverage(rows, input_size=(3, 5)) == [[1.0, 0.25, 0.5], [0.5, 0.0, 1.0]]


def test_rows_and_columns_are_not_confused():
    rows = [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert coverage(rows, input_size=(2, 7)) == [[1.0, 0.5, 0.0, 0.0]]
    columns = [list(column) for column in zip(*rows)]
    assert coverage(columns, input_size=(7, 2)) == [[1.0], [0.5], [0.0], [0.0]]


def test_a_mask_of_a_smaller_picture_is_enlarged():
    assert coverage([[1, 0], [0, 1]], input_size=(4, 4)) == [[1.0, 0.0], [0.0, 1.0]]


def test_a_mask_of_a_larger_picture_is_shrunk():
    rows = [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert coverage(rows, input_size=(2, 4)) == [[0.75, 0.0]]


def test_enlarging_rounds_by_pixel_centres():
    # Centres of 3 pixels over 2: 1/3, 1, 5/3, so the middle one belongs to the second.
    assert coverage([[0, 1]], input_size=(1, 3), patch_size=1) == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize("size", [(5, 7), (4, 4), (1, 1), (2, 3)])
def test_a_full_mask_covers_every_token(size):
    grid = -(-size[0] // 4), -(-size[1] // 4)
    assert coverage([[1]], input_size=size, patch_size=4) == [[1.0] * grid[1]] * grid[0]


def test_arrays_and_tensors_have_one_geometry():
    mask = np.zeros((5, 7), bool)
    mask[:, 1:4] = True
    grid = TokenGrid((10, 14), 4)
    covered = grid.coverage(mask)
    assert isinstance(covered, np.ndarray)
    assert covered.tolist() == grid.coverage(torch.from_numpy(mask)).tolist()
    assert grid.inside(mask).tolist() == (covered >= 0.5).tolist()
