"""The pieces of a learned decision by hand: the gate's numbers, the draw, the ratio loss.

B images, N patch tokens.
"""

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies.gating import (
    TokenGate,
    keep_ratio_loss,
    logistic_noise,
    straight_through,
)

# ------------------------------------------------------------------ the gate


@torch.no_grad()
def typed_gate():
    gate = TokenGate(4)
    gate.norm.weight.copy_(torch.tensor([1.0, 1, 2, 1]))
    gate.norm.bias.copy_(torch.tensor([0.0, 0, 0.5, 0]))
    gate.fc1.weight.copy_(torch.tensor([[1.0, 0, 0.2, 0]]))
    gate.fc1.bias.fill_(-0.5)
    gate.fc2.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    gate.fc2.bias.copy_(torch.tensor([0.5, 0.25]))
    return gate


def test_the_gate_by_hand():
    # (3, 1, 3, 1) normalised is (1, -1, 1, -1) to 5 in a million; affine: (1, -1, 2.5, -1).
    # fc1: 1 + 0.5 - 0.5 = 1; GELU(1) = 0.841345; fc2: keep 2.182689, skip -0.591345.
    margin = typed_gate()(torch.tensor([[[3.0, 1, 3, 1]]]))
    assert margin.shape == (1, 1)
    assert margin.item() == pytest.approx(2.774034, abs=1e-4)
    # (-1, 1, -1, 1): affine (-1, 1, -1.5, 1); fc1: -1 - 0.3 - 0.5 = -1.8; GELU = -0.0646748.
    other = typed_gate()(torch.tensor([[[1.0, 3, 1, 3]]]))
    assert other.item() == pytest.approx(0.25 + 3 * -0.0646748, abs=1e-4)


def test_the_margin_is_that_of_the_log_softmax():
    gate = TokenGate(24)
    tokens = torch.randn(2, 5, 24)
    logits = gate.fc2(torch.nn.functional.gelu(gate.fc1(gate.norm(tokens))))
    log_keep, log_skip = logits.log_softmax(dim=-1).unbind(-1)
    assert_close(gate(tokens), log_keep - log_skip)


def test_the_gate_is_as_small_as_the_papers():
    # DeiT-T: 192 -> 48 -> 2, with a LayerNorm; nine of them have 87,714 parameters.
    gate = TokenGate(192)
    assert 9 * sum(p.numel() for p in gate.parameters()) == 87_714
    assert gate.macs(10) == 10 * (192 * 48 + 48 * 2)
    assert gate.norm.eps == 1e-5


def test_new_gates_keep_about_half():
    keep = torch.cat([TokenGate(24)(torch.randn(2, 50, 24)).sigmoid() for _ in range(20)])
    assert 0.4 < keep.mean() < 0.6


def test_a_margin_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TokenGate(24)(torch.randn(1, 3, 24)).dtype == torch.float32


# ------------------------------------------------------------------ the draw


def test_the_straight_through_gate_is_exactly_zero_or_one():
    margin = 20 * torch.randn(3, 1000)
    keep, gate = straight_through(margin, logistic_noise(margin))
    assert keep.dtype == torch.bool
    assert torch.equal(gate, keep.float())


def test_its_gradient_is_that_of_the_sigmoid():
    margin = torch.tensor([[-2.0, 0.0, 0.5, 3.0]], requires_grad=True)
    noise = torch.tensor([[1.0, 0.0, -0.5, -1.0]])
    keep, gate = straight_through(margin, noise)
    gate.sum().backward()
    assert keep.int().tolist() == [[0, 0, 0, 1]]  # a tie, margin + noise = 0, is skipped
    # sigmoid'(x) = s (1 - s) at -1, 0, 0 and 2.
    assert_close(margin.grad, torch.tensor([[0.1966119, 0.25, 0.25, 0.1049936]]))


def test_a_token_that_is_not_up_for_choice_is_skipped_without_a_gradient():
    logits = torch.zeros(1, 2, requires_grad=True)
    margin = logits.masked_fill(torch.tensor([[True, False]]), float("-inf"))
    keep, gate = straight_through(margin, torch.tensor([[80.0, 1.0]]))
    gate.sum().backward()
    assert keep.tolist() == [[False, True]]
    assert_close(logits.grad, torch.tensor([[0.0, 0.1966119]]))


@pytest.mark.parametrize("margin", [-1.5, 0.0, 2.0])
def test_a_token_is_kept_with_the_gates_probability(margin):
    margins = torch.full((1, 50_000), margin)
    share = straight_through(margins, logistic_noise(margins))[0].float().mean()
    # The standard error is at most 0.0023.
    assert share.item() == pytest.approx(torch.tensor(margin).sigmoid().item(), abs=0.01)


def test_noise_is_finite_at_the_ends_of_the_uniform_draw(monkeypatch):
    ends = torch.tensor([0.0, 1 - 2**-24])  # the least and the most that torch.rand returns
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends)
    noise = logistic_noise(torch.zeros(2))
    assert noise.isfinite().all()
    assert noise[0] < -16
    assert noise[1] > 16


# ------------------------------------------------------------------ the ratio loss


def kept_of_ten(*counts):
    return (torch.arange(10) < torch.tensor(counts).unsqueeze(1)).float()


def test_the_ratio_loss_of_a_batch_and_per_image():
    # Kept 7 and 5 of 10, target 0.7: (0.6 - 0.7)^2, and the mean of 0 and 0.2^2.
    gates = [kept_of_ten(7, 5)]
    assert keep_ratio_loss(gates, [0.7]).item() == pytest.approx(0.01)
    assert keep_ratio_loss(gates, [0.7], per_image=True).item() == pytest.approx(0.02)


def test_the_ratio_loss_is_a_mean_over_the_gates():
    # 0.1^2, 0 and 0.2^2 over three gates.
    gates = [kept_of_ten(7, 5), kept_of_ten(4, 6), kept_of_ten(1, 1)]
    assert keep_ratio_loss(gates, [0.7, 0.5, 0.3]).item() == pytest.approx(0.05 / 3)


def test_the_loss_pushes_the_share_towards_the_target():
    margin = torch.zeros(2, 10, requires_grad=True)
    for noise, sign in ((2.0, 1), (-2.0, -1)):  # all kept: push down; none: up
        margin.grad = None
        _, gate = straight_through(margin, torch.full((2, 10), noise))
        keep_ratio_loss([gate], [0.7]).backward()
        assert (sign * margin.grad > 0).all()
