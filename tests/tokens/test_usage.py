"""Usage over many images, worked out by hand: two images, three blocks, four tokens each."""

import numpy as np
import pytest
import torch

from svit_det.tokens.usage import count, kept_shares, kept_twice, overlaps, returning

USAGE = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[0, 1], [1, 0]]]).bool()
LEFT = torch.tensor([[1, 0], [1, 0]]).bool()


def image(kept, twice, tokens=4):
    return {"all": {"tokens": tokens, "kept": kept}, "kept_twice": twice}


TWO_IMAGES = [image([4, 2, 2], [2, 1]), image([4, 4, 1], [4, 1])]


def test_counts_of_a_set_of_tokens():
    assert count(USAGE, LEFT) == {"tokens": 2, "kept": [2, 1, 1]}
    assert count(USAGE, torch.ones_like(LEFT)) == {"tokens": 4, "kept": [4, 2, 2]}
    assert count(USAGE, torch.zeros_like(LEFT)) == {"tokens": 0, "kept": [0, 0, 0]}


def test_tokens_that_two_blocks_in_a_row_kept():
    assert kept_twice(USAGE) == [2, 1]


def test_shares_are_of_all_images_together():
    unequal = [image([4, 2, 2], [2, 1]), image([1, 1, 0], [1, 0], tokens=1)]
    assert kept_shares(unequal, "all").tolist() == [5 / 5, 3 / 5, 2 / 5]


def test_the_share_of_no_tokens_is_no_number():
    assert np.isnan(kept_shares([image([0, 0, 0], [0, 0], tokens=0)], "all")).all()


def test_overlaps():
    # Blocks 0 and 1: 6 kept twice, 8 by either. Blocks 1 and 2: 2 twice, 6 + 3 - 2 by either.
    assert overlaps(TWO_IMAGES).tolist() == pytest.approx([6 / 8, 2 / 7])


def test_returning():
    # Block 1 keeps 6, all of them kept before; block 2 keeps 3, one of them skipped before.
    assert returning(TWO_IMAGES).tolist() == pytest.approx([0, 1 / 3])


def test_blocks_that_keep_nothing_stay_the_same():
    nothing = [image([0, 0, 0], [0, 0])]
    assert overlaps(nothing).tolist() == [1, 1]
    assert returning(nothing).tolist() == [0, 0]
