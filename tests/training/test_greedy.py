"""The second pass of a self-critical baseline: it must leave no trace."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from svit_det.training.greedy import (
    RandomState,
    greedy_pass,
    random_states_after,
    restored_after,
    undisturbed,
)


class Dropping(nn.Dropout):
    """In the place of a policy without a budget."""

    keep_ratio = None


class Noisy(nn.Module):
    """A batch norm, a policy that remembers its mode, and noise."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.policy = Dropping(0.5)
        self.seen = []

    def forward(self, rows):
        self.seen.append(self.policy.training)
        return self.policy(self.norm(rows)) + torch.rand(())


def all_draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_random_state_goes_back():
    state = RandomState.now()
    first = all_draws()
    assert all_draws() != first
    state.restore()
    assert all_draws() == first


def test_buffers_and_random_state_are_left_alone():
    model, rows = Noisy(), torch.randn(5, 3)
    model(rows)
    before = {name: value.clone() for name, value in model.named_buffers()}
    state = torch.get_rng_state()
    with undisturbed(model):
        model(rows)
        assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
        all_draws()
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), state)


def test_a_first_pass_can_still_go_backward():
    """Buffers that are overwritten in place would stop it."""
    model, rows = Noisy(), torch.randn(5, 3, requires_grad=True)
    drawn = RandomState.now()
    loss = model(rows).square().sum()
    greedy_pass(model, model.policy, lambda: model(rows), random=drawn)
    loss.backward()
    assert rows.grad.abs().sum() > 0
    assert model.norm.num_batches_tracked == 1


def test_only_the_policy_decides_as_at_inference():
    model, rows = Noisy(), torch.randn(5, 3, requires_grad=True)
    drawn = RandomState.now()
    first = model(rows)
    noise = torch.rand(3)  # the training goes on drawing
    after = torch.get_rng_state()
    model.policy.p = 0.0  # so that both passes draw the same numbers
    drawn.restore()
    expected = model(rows)
    torch.set_rng_state(after)
    second = greedy_pass(model, model.policy, lambda: model(rows), random=drawn)
    assert model.seen == [True, True, False]
    assert model.policy.training and model.training
    assert not second.requires_grad and first.requires_grad
    torch.testing.assert_close(second, expected.detach())
    assert torch.equal(torch.get_rng_state(), after) and len(noise) == 3


def test_an_exception_restores_everything():
    model = Noisy()
    state = torch.get_rng_state()

    def fail():
        model(torch.randn(5, 3))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        greedy_pass(model, model.policy, fail, random=RandomState.now())
    assert model.policy.training
    assert model.norm.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_plain_numbers_on_modules_are_left_alone_too():
    """detectron2's RetinaNet keeps a running mean as one."""
    model = Noisy()
    model.norm.loss_normalizer = 100.0
    with undisturbed(model):
        model.norm.loss_normalizer = 7.0
        model.policy.eval()
    assert model.norm.loss_normalizer == 100.0
    assert model.policy.training


def test_what_follows_the_network_draws_alike():
    """The first pass draws one number more inside the network, the head the same in both."""
    net, drawn = nn.Identity(), []

    def run(inside):
        torch.rand(inside)
        net(torch.zeros(1))
        drawn.append(torch.rand(3))

    with random_states_after(net) as states:
        run(inside=5)
    with restored_after(net, states[0]):
        run(inside=2)
    run(inside=2)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
