"""Random: counts, draws, and the control for policies that bring no token back."""

import itertools

import pytest
import torch

from svit_det.policies import TrunkShape
from svit_det.policies.random import Random, hashed

SHAPE = TrunkShape(24, 12, 3)


@pytest.fixture
def kept(a_view, a_state):
    """What block `layer` keeps of images with so many tokens, `kept(policy, layer, ...)`."""

    def of(policy, layer, *, num_patches=40, num_images=3):
        state = a_state(num_patches, num_images=num_images)
        return policy.before_block(a_view(layer), state)[1]

    return of


def test_each_block_keeps_its_share(kept):
    policy = Random(config=Random.Config(), shape=SHAPE).eval()
    shares = [1.0] * 3 + [0.7] * 3 + [0.49] * 3 + [0.343] * 3
    for layer, share in enumerate(shares):
        for training in (False, True):
            selection = kept(policy.train(training), layer)
            assert selection.total == round(40 * share)
            assert selection.keep.sum(dim=1).tolist() == [selection.total] * 3


def test_at_inference_one_draw_for_all_images(kept):
    policy = Random(config=Random.Config(), shape=SHAPE).eval()
    keep = kept(policy, 3).keep
    assert torch.equal(keep, keep[:1].expand(3, 40))
    assert torch.equal(keep, kept(policy, 3).keep)
    assert torch.equal(keep[:1], kept(policy, 3, num_images=1).keep)
    other = Random(config=Random.Config(seed=1), shape=SHAPE).eval()
    assert not torch.equal(keep, kept(other, 3).keep)
    assert not torch.equal(keep, kept(policy, 4).keep)


def test_in_training_each_image_draws_anew(kept):
    policy = Random(config=Random.Config(), shape=SHAPE).train()
    one, two = (kept(policy, 3).keep for _ in range(2))
    draws = torch.cat([one, two]).unique(dim=0)
    assert len(draws) == 6


@pytest.mark.parametrize("count", [64, 4200])
def test_draws_are_uniform_and_independent(count):
    """A quarter of the draws in each quarter; two blocks share a quarter of their upper halves."""
    draws = torch.stack([hashed(count, 0, layer, device="cpu") for layer in range(12)])
    assert ((draws >= 0) & (draws < 1)).all()
    shares = torch.histc(draws.flatten(), 4, 0, 1) / draws.numel()
    assert (shares - 0.25).abs().max() < 0.03
    halves = (draws > draws.median(dim=1, keepdim=True).values).float()
    together = (halves @ halves.T / count)[~torch.eye(12, dtype=torch.bool)]
    assert (together - 0.25).abs().max() < 3 * 0.25 / count**0.5 + 0.02


def test_the_hash_by_hand():
    """Place 0 in block 0 under seed 0: the two rounds in plain integers."""
    value = 0x9E3779B1
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D), (16, 1)):
        value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
    assert hashed(1, 0, 0, device="cpu").item() == (value >> 8) / 2**24


def test_under_monotone_the_counts_are_those_of_the_schedule(make_policy, tiny_trunk, images):
    trunk = tiny_trunk(make_policy("Monotone(Random)", layers=(3, 6, 9)))
    with torch.no_grad():
        history = trunk(images(2, (5, 8))).history
    counts = [record.selection.keep.sum(dim=1).tolist() for record in history]
    assert counts == [[40] * 2] * 3 + [[28] * 2] * 3 + [[20] * 2] * 3 + [[14] * 2] * 3
    for before, after in itertools.pairwise(history):
        assert not (after.selection.keep & ~before.selection.keep).any()
