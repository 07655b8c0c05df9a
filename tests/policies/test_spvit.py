"""SPViT by hand: its selector, packages, thresholds and losses.

B images, N patch tokens.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.scorers import TokenSelector
from svit_det.policies.spvit import SPViT
from svit_det.tokens import Selection

SHAPE = TrunkShape(24, 12, 3)


def spvit(**config):
    policy = SPViT(config=SPViT.Config(**config), shape=SHAPE)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    return policy.eval()


# ------------------------------------------------------------------ the selector


def by_the_book(selector, tokens, alive):
    """Head by head as methods describe it: decision in log space, package weight as a mean."""
    logs, shares = [], []
    for index, part in enumerate(tokens.chunk(3, dim=-1)):
        net = selector.heads[index % len(selector.heads)]
        features = F.gelu(net.fc_in(net.norm(part)))
        weight = alive.unsqueeze(-1).float()
        pooled = (features[..., 4:] * weight).sum(dim=1, keepdim=True) / weight.sum(1, True)
        both = torch.cat([features[..., :4], pooled.expand_as(features[..., 4:])], dim=-1)
        logits = net.fc3(F.gelu(net.fc2(F.gelu(net.fc1(both)))))
        logs.append(logits.log_softmax(dim=-1))
        shares.append(logits.softmax(dim=-1))
    means = torch.stack([part.mean(dim=-1) for part in tokens.chunk(3, dim=-1)], dim=-1)
    say = selector.fc2(F.gelu(selector.fc1(means))).sigmoid()
    decide, share = (
        sum(say[..., [head]] * each[head] for head in range(3)) / say.sum(dim=-1, keepdim=True)
        for each in (logs, shares)
    )
    return decide[..., 0] - decide[..., 1], share[..., 0]


@pytest.mark.parametrize("shared_heads", [True, False])
def test_the_selector_is_the_papers(shared_heads):
    selector = TokenSelector(24, 3, shared_heads=shared_heads)
    with torch.no_grad():
        for parameter in selector.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens, alive = torch.randn(2, 5, 24), torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    margin, probability = selector(tokens, alive)
    expected = by_the_book(selector, tokens, alive)
    assert_close(margin, expected[0], atol=1e-5, rtol=1e-5)
    assert_close(probability, expected[1], atol=1e-5, rtol=1e-5)


def test_shared_heads_have_one_heads_parameters():
    """A head of 8 channels: norm 16, 8 -> 8, 8 -> 4, 4 -> 2, 2 -> 2; the weighing 3 -> 1 -> 3."""
    head, weighing = 16 + (64 + 8) + (32 + 4) + (8 + 2) + (4 + 2), (3 + 1) + (3 + 3)
    for shared_heads, count in ((True, 1), (False, 3)):
        selector = TokenSelector(24, 3, shared_heads=shared_heads)
        parameters = sum(parameter.numel() for parameter in selector.parameters())
        assert parameters == count * head + weighing
    assert TokenSelector(24, 3, shared_heads=True).macs(7) == selector.macs(7)


# ------------------------------------------------------------------ packages


def passed(policy, a_view, a_state, layers, **options):
    """The states and selections of some blocks in turn, the blocks' own work left out."""
    state = a_state(**options)
    for layer in layers:
        before = state
        state, selection = policy.before_block(a_view(layer), state)
        yield before, state, selection


def expected_package(policy, before, selection, left):
    """The weighted sum of what this stage dropped, by the book."""
    tokens = before.tokens
    alive = torch.cat([before.presence(), left], dim=1)
    selector = policy.selectors["6" if before.notes else "3"]
    weight = by_the_book(selector, tokens, alive)[1][:, before.num_extra :]
    weight = weight * (left & ~selection.keep)
    if policy.package_norm:
        weight = weight / weight.sum(dim=1, keepdim=True)
    return torch.einsum("bn,bnc->bc", weight, before.patches)


@pytest.mark.parametrize("package_norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_package_is_the_weighted_sum_of_what_a_stage_drops(
    a_view, a_state, package_norm, training
):
    policy = spvit(package_norm=package_norm).train(training)
    left = torch.ones(2, 12, dtype=torch.bool)
    with torch.no_grad():
        stages = passed(policy, a_view, a_state, (3, 6), num_patches=12, num_images=2)
        for number, (before, after, selection) in enumerate(stages):
            some = (left & ~selection.keep).any(dim=1)
            assert some.any()
            assert torch.equal(after.presence()[:, -1], some)
            assert after.num_extra == number + 1
            expected = expected_package(policy, before, selection, left)
            assert_close(after.extra[some, -1], expected[some], atol=1e-5, rtol=1e-5)
            assert torch.equal(after.extra[:, :-1], before.extra)
            left = selection.keep


def test_an_image_that_drops_nothing_gets_no_package(a_view, a_state, monkeypatch):
    policy = spvit()
    margin = torch.tensor([[1.0, 2, 3, 1], [1, -1, 2, -3]])
    monkeypatch.setattr(policy, "_ask", lambda *_: (margin, torch.full_like(margin, 0.25)))
    state = a_state(4, num_images=2)
    after, selection = policy.before_block(a_view(3), state)
    assert selection.keep.tolist() == [[True] * 4, [True, False, True, False]]
    assert after.presence().tolist() == [[False], [True]]
    assert_close(after.extra[1, 0], state.patches[1, [1, 3]].mean(dim=0))
    assert not after.extra[0].any()


def test_the_packages_count_in_later_means(a_view, a_state):
    policy = spvit()
    with torch.no_grad():
        (_, state, _), (_, _, second) = passed(policy, a_view, a_state, (3, 6), num_patches=12)
        other = state.with_patches(state.patches)
        other.tokens[:, 0] += torch.randn(24)
        _, moved = policy.before_block(a_view(6), other)
    left = second.score > -torch.inf
    assert not torch.allclose(second.score[left], moved.score[left])


# ------------------------------------------------------------------ deciding


def test_a_dropped_token_never_returns(tiny_trunk, images):
    trunk = tiny_trunk(spvit())
    with torch.no_grad():
        history = trunk(images(3, (5, 7))).history
    for before, after in itertools.pairwise(history):
        assert not (after.selection.keep & ~before.selection.keep).any()
    counts = {tuple(record.selection.keep.sum(dim=1).tolist()) for record in history[3:]}
    assert any(len(set(each)) > 1 for each in counts)  # it varies by image


def test_the_threshold_spends_what_training_saw(tiny_trunk, images, pass_of):
    """Usage at inference follows that of training, and other budgets follow their mean."""
    trunk, batch = tiny_trunk(spvit()), images(8, (9, 9))
    with torch.no_grad():
        trunk.train()
        for _ in range(60):
            trunk.policy.track(pass_of(trunk, trunk(batch)))
        trained = trunk.policy.budget.kept_share.cumprod(0)
        shares = pass_of(trunk, trunk.eval()(batch)).kept_shares()
        assert_close(shares[[3, 6, 9]], trained, atol=0.06, rtol=0)
        for ratio in (0.3, 0.5, 0.8):
            trunk.policy.set_keep_ratio(ratio)
            shares = pass_of(trunk, trunk(batch)).kept_shares()
            assert shares[[3, 6, 9]].mean().item() == pytest.approx(ratio, abs=0.12)


def test_argmax_keeps_what_is_more_probable(a_view, a_state, monkeypatch):
    policy = spvit(mode="argmax")
    policy.budget.thresholds.fill_(2.0)
    margin = torch.tensor([[1.0, 2.5, -3, 0]])
    monkeypatch.setattr(policy, "_ask", lambda *_: (margin, margin.sigmoid()))
    assert policy.before_block(a_view(3), a_state(4))[1].keep.tolist() == [[1, 1, 0, 0]]
    policy.mode = "threshold"
    assert policy.before_block(a_view(3), a_state(4))[1].keep.tolist() == [[0, 1, 0, 0]]


def test_the_ratio_loss_is_of_the_batch(a_pass, no_task):
    """Shares .625, .375, .25 against .617, .369, .137; mean of squares, times 2."""
    gates = [
        torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]]),
        torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]]),
        torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]]),
    ]
    blocks = [Selection(torch.ones(2, 4, dtype=torch.bool))] * 3
    for gate in gates:
        blocks += [Selection(gate.bool(), gate=gate)] * 3
    loss = spvit().losses(a_pass(*blocks), no_task)["loss_keep_ratio"]
    squares = [0.008**2, 0.006**2, 0.113**2]
    assert loss.item() == pytest.approx(2 * sum(squares) / 3, rel=1e-4)


def test_full_budget_costs_nothing(a_view, a_state):
    policy = spvit(test_keep_ratio=1.0)
    for _, after, selection in passed(policy, a_view, a_state, range(12), num_patches=40):
        assert after.num_extra == 0
        assert (selection.total, selection.macs) == (40, 0)


def test_refusals():
    with pytest.raises(InputError, match="test_keep_ratio: works in the mode threshold"):
        spvit(mode="argmax", test_keep_ratio=0.5)
    with pytest.raises(InputError, match=r"keep_ratios: .* rises, but SPViT cannot"):
        spvit(keep_ratios=(0.5, 0.7, 0.3))
    with pytest.raises(InputError, match=r"layers: \[12\] not in the trunk"):
        spvit(layers=(3, 6, 12))
