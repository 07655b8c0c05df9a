"""Halting scores summed up by hand, and the prior on where tokens halt.

A token's state after block l is the unit vector l here, so that its mixture is the list of its
weights.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from svit_det.policies.halting import Halting, prior_loss, prior_target


def summed(scores, ran=None):
    """After all blocks, of one image: `scores` by token and block, `ran` by block and token.

    Returns the sums and how many blocks each token was alive in. A token's first state is zero.
    """
    num_tokens, depth = len(scores), len(scores[0])
    states = torch.zeros(1, num_tokens, depth)
    sums, blocks = Halting.beginning(states, mixes=True), torch.zeros(1, num_tokens)
    for layer in range(depth):
        runs = torch.ones(1, num_tokens).bool() if ran is None else torch.tensor([ran[layer]])
        runs = runs & sums.alive
        new = F.one_hot(torch.tensor(layer), depth).float()
        states = torch.where(runs.unsqueeze(-1), new, states)
        blocks += sums.alive
        score = torch.tensor([[token[layer] for token in scores]])
        sums = sums.after(states, score, runs, last=layer == depth - 1)
    return sums, blocks[0].tolist()


@pytest.mark.parametrize(
    ("scores", "weights", "rho", "blocks"),
    [
        ([0.1, 0.3, 0.7, 0.2, 0.2], [0.1, 0.3, 0.6, 0, 0], 3.6, 3),
        ([0.5, 0.6, 0.1, 0.1], [0.5, 0.5, 0, 0], 2.5, 2),
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.8], 3.8, 3),
    ],
    ids=str,
)
def test_the_papers_sums_by_hand(scores, weights, rho, blocks):
    sums, counts = summed([scores])
    assert_close(sums.mixture[0, 0], torch.tensor([*map(float, weights)]))
    assert sums.ponder.item() == pytest.approx(rho)
    assert counts == [blocks]
    # The forced end is no score, and a halted token is not asked: it counts 0 in the mean.
    means = [*scores[:blocks], *[0.0] * (len(scores) - blocks)]
    assert [each.item() for each in sums.scores] == pytest.approx(means)
    assert sums.accumulated.item() == 1 and not sums.alive.any()


def test_tokens_side_by_side():
    sums, counts = summed([[0.995, 0.5, 0.5], [0.6, 0.5, 0.5], [0.1, 0.2, 0.9]])
    assert counts == [1, 2, 3]
    assert_close(sums.mixture[0], torch.tensor([[1.0, 0, 0], [0.6, 0.4, 0], [0.1, 0.2, 0.7]]))
    assert_close(sums.ponder, torch.tensor([[2.0, 2.4, 3.7]]))
    assert_close(torch.stack(sums.scores), torch.tensor([1.695, 0.7, 0.9]) / 3)


@pytest.mark.parametrize(("score", "blocks"), [(0.989, 2), (0.99, 1), (0.991, 1)])
def test_a_sum_of_99_hundredths_halts(score, blocks):
    """Of exactly that sum the original would forget the remainder."""
    sums, counts = summed([[score, 0.5, 0.5]])
    assert counts == [blocks]
    assert sums.mixture.sum().item() == pytest.approx(1)


def test_a_token_that_did_not_run_waits():
    """Token 1 is left out of blocks 1 and 2: no score, no weight, no block that it pays for."""
    ran = [[True, True], [True, False], [True, False], [True, True]]
    sums, _ = summed([[0.2] * 4, [0.2, 0.7, 0.7, 0.3]], ran)
    assert_close(sums.mixture[0], torch.tensor([[0.2, 0.2, 0.2, 0.4], [0.2, 0, 0, 0.8]]))
    assert_close(sums.ponder, torch.tensor([[4.4, 2.8]]))
    assert_close(torch.stack(sums.scores), torch.tensor([0.2, 0.1, 0.1, 0.25]))


def test_at_the_end_the_remainder_goes_to_the_state_there_is():
    """Token 0 ran twice. Token 1 never did: its whole weight is on its first state, zero."""
    ran = [[True, False], [True, False], [False, False]]
    sums, _ = summed([[0.2, 0.3, 0.9], [0.2] * 3], ran)
    assert_close(sums.mixture[0], torch.tensor([[0.2, 0.8, 0], [0, 0, 0]]))
    assert_close(sums.ponder, torch.tensor([[2.5, 1.0]]))
    assert (sums.accumulated == 1).all() and not sums.alive.any()


def test_a_halted_token_is_final_even_if_it_runs():
    states, every = torch.ones(1, 2, 3), torch.ones(1, 2).bool()
    sums = Halting.beginning(states, mixes=True)
    sums = sums.after(states, torch.tensor([[0.995, 0.3]]), every, last=False)
    later = sums.after(5 * states, torch.tensor([[0.9, 0.3]]), every, last=False)
    for name in ("alive", "accumulated", "ponder", "mixture"):
        assert torch.equal(getattr(later, name)[:, 0], getattr(sums, name)[:, 0])
    assert later.accumulated[0, 1] == 0.6
    assert later.scores[1].item() == pytest.approx(0.15)


def test_gradients_by_hand():
    """h = .3 weighs the first state, .7 the second; rho is 2.7."""
    score = torch.tensor([[0.3]], requires_grad=True)
    first, second = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    first.requires_grad_()
    every = torch.ones(1, 1).bool()
    sums = Halting.beginning(first, mixes=True).after(first, score, every, last=False)
    sums = sums.after(second, torch.tensor([[0.5]]), every, last=True)
    assert_close(sums.mixture.detach(), torch.tensor([[[0.6, 3.5]]]))
    for value, slope in [
        (sums.mixture[0, 0, 0], 2.0),
        (sums.mixture[0, 0, 1], -5.0),
        (sums.ponder.sum(), -1.0),
        (sums.scores[0], 1.0),
    ]:
        assert torch.autograd.grad(value, score, retain_graph=True)[0].item() == slope
    (of_state,) = torch.autograd.grad(sums.mixture.sum(), first)
    assert_close(of_state, torch.tensor([[[0.3, 0.3]]]))


def test_sums_are_kept_in_single_precision():
    states = torch.ones(1, 2, 3, dtype=torch.bfloat16)
    sums = Halting.beginning(states, mixes=True)
    for _ in range(3):
        score = torch.full((1, 2), 0.001, dtype=torch.bfloat16)
        sums = sums.after(states, score, torch.ones(1, 2).bool(), last=False)
    for value in (sums.accumulated, sums.ponder, sums.mixture, *sums.scores):
        assert value.dtype == torch.float32


# ------------------------------------------------------------------ the prior


def test_the_target_is_the_released_one():
    target = prior_target(12, 8)
    expected = [0, 0, 0, 0, 0.00044, 0.01445, 0.17606, 0.78905, 1.30092, 0.78905, 0.17606, 0.01445]
    assert_close(target, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    assert target[:8].sum().item() == pytest.approx(0.98)
    # The same numbers around any centre, also where nothing lies before it.
    assert_close(prior_target(4, 2), target[6:10])
    assert_close(prior_target(1, 0), target[8:9])


def test_the_loss_by_hand():
    scores, target = torch.tensor([0.1, 0.1, 0.2]), torch.tensor([0.0, 0.5, 1.5])
    # Shares 1/4, 1/4, 1/2; an entry of 0 adds nothing; divided by three.
    by_hand = (0.5 * math.log(0.5 / 0.25) + 1.5 * math.log(1.5 / 0.5)) / 3
    assert prior_loss(scores, target).item() == pytest.approx(by_hand)
    # A share below .01 counts as .01, one above .99 as .99.
    by_hand = (0.5 * math.log(0.5 / 0.01) + 1.5 * math.log(1.5 / 0.99)) / 3
    assert prior_loss(torch.tensor([0.0, 1e-5, 0.5]), target).item() == pytest.approx(by_hand)


def test_a_negative_divergence_adds_nothing():
    scores, target = torch.tensor([0.1, 0.9], requires_grad=True), torch.tensor([0.05, 0.1])
    assert F.kl_div(scores.log(), target, reduction="batchmean") < 0
    loss = prior_loss(scores, target)
    loss.backward()
    assert loss == 0 and not scores.grad.any()


@pytest.mark.parametrize("score", [0.0, 1e-42, 1e-33, 1.0])
def test_the_loss_of_saturated_scores_is_finite(score):
    """sigmoid(-75) is 3e-33, and training in half precision multiplies the loss by 65,536."""
    scores = torch.full((12,), score, requires_grad=True)
    loss = prior_loss(scores, prior_target(12, 8))
    (65536 * 1e-3 * loss).backward()
    assert loss.isfinite() and scores.grad.isfinite().all()
