"""DynamicViT by hand: its scores, counts, losses and recipe; its attention is in tests/vit.

B images, N patch tokens.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TaskLosses, TrunkShape
from svit_det.policies.dynamic_vit import DynamicViT
from svit_det.policies.scorers import ScorePredictor
from svit_det.tokens import PassRecord, Selection, TokenGrid

SHAPE = TrunkShape(24, 12, 3)


def dynamic_vit(**config):
    return DynamicViT(config=DynamicViT.Config(**config), shape=SHAPE)


# ------------------------------------------------------------------ the predictor


def by_the_book(net, tokens, alive):
    """The paper's formula, the pooled half repeated for each token."""
    features = F.gelu(net.fc_in(net.norm(tokens)))
    half = features.shape[-1] // 2
    weight = alive.unsqueeze(-1).float()
    pooled = (features[..., half:] * weight).sum(dim=1, keepdim=True) / weight.sum(1, True)
    both = torch.cat([features[..., :half], pooled.expand_as(features[..., half:])], dim=-1)
    logits = net.fc3(F.gelu(net.fc2(F.gelu(net.fc1(both)))))
    return logits.log_softmax(dim=-1).diff(dim=-1).squeeze(-1).neg()


def test_the_predictor_is_the_papers():
    net = ScorePredictor(24)
    sizes = [(part.in_features, part.out_features) for part in (net.fc_in, net.fc1, net.fc2)]
    assert sizes == [(24, 24), (24, 12), (12, 6)]
    assert (net.fc3.in_features, net.fc3.out_features) == (6, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens, alive = torch.randn(2, 5, 24), torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    assert_close(net(tokens, alive), by_the_book(net, tokens, alive), atol=1e-5, rtol=1e-5)
    # Whatever lies in the dropped tokens, the scores of the others do not see it.
    changed = tokens.clone()
    changed[0, 2] += 7
    assert_close(net(changed, alive)[alive], net(tokens, alive)[alive], atol=0, rtol=0)


def test_an_image_without_tokens_has_finite_scores():
    net = ScorePredictor(24)
    assert net(torch.randn(1, 5, 24), torch.zeros(1, 5, dtype=torch.bool)).isfinite().all()


# ------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("num_patches", "counts"),
    [(196, (137, 96, 67)), (4200, (2940, 2058, 1440)), (1, (1, 1, 1)), (2, (1, 1, 1))],
)
def test_counts_at_inference(a_view, a_state, num_patches, counts):
    policy = dynamic_vit().eval()
    state = a_state(num_patches, num_images=2)
    with torch.no_grad():
        for layer in range(12):
            state, selection = policy.before_block(a_view(layer), state)
            expected = num_patches if layer < 3 else counts[layer // 3 - 1]
            assert selection.total == expected
            assert selection.keep.sum(dim=1).tolist() == [expected] * 2


def test_the_highest_scores_stay_and_the_dropped_never_return(a_view, a_state):
    policy = dynamic_vit().eval()
    state = a_state(40, num_images=2)
    before = torch.ones(2, 40, dtype=torch.bool)
    with torch.no_grad():
        for layer in (3, 6, 9):
            state, selection = policy.before_block(a_view(layer), state)
            keep, score = selection.keep, selection.score
            assert not (keep & ~before).any()
            for image in range(2):
                dropped = score[image][before[image] & ~keep[image]]
                assert score[image][keep[image]].min() >= dropped.max()
            before = keep


# ------------------------------------------------------------------ training


def test_decisions_multiply_in_training(a_view, a_state):
    policy = dynamic_vit().train()
    state = a_state(40, num_images=2)
    for parameter in policy.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    before = torch.ones(2, 40)
    for layer in range(12):
        state, selection = policy.before_block(a_view(layer), state)
        if layer < 3:
            assert selection.gate is None and selection.soft_keys is None
            continue
        assert selection.gate is selection.soft_keys
        assert selection.total is None
        assert torch.equal(selection.gate, selection.keep.float())
        assert (selection.gate <= before).all()
        if layer % 3:
            assert torch.equal(selection.gate, before)
        before = selection.gate.detach()


def a_trained_pass(a_pass, gates):
    """A pass of twelve blocks whose stages decided `gates`, (B, N) of 0 and 1 each."""
    selections = [Selection(torch.ones(gates[0].shape, dtype=torch.bool))] * 3
    for gate in gates:
        selections += [Selection(gate.bool(), gate=gate)] * 3
    return a_pass(*selections)


GATES = (
    torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]]),
    torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]]),
    torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]]),
)


def test_the_ratio_loss_is_of_each_image(a_pass, no_task):
    """Shares .75 .5, .5 .25, .25 .25 against .7, .49, .343; mean of squares, times 2."""
    squares = [0.05**2, 0.2**2, 0.01**2, 0.24**2, 0.093**2, 0.093**2]
    record = a_trained_pass(a_pass, GATES)
    losses = dynamic_vit().losses(record, no_task)
    assert set(losses) == {"loss_keep_ratio"}
    assert losses["loss_keep_ratio"].item() == pytest.approx(2 * sum(squares) / 6, rel=1e-5)
    batch = dynamic_vit(ratio_per_image=False, ratio_weight=1.0).losses(record, no_task)
    squares = [0.075**2, 0.115**2, 0.093**2]
    assert batch["loss_keep_ratio"].item() == pytest.approx(sum(squares) / 3, rel=1e-5)


def test_distillation_on_the_tokens_that_stay(a_pass):
    """Token 0 of both images stays: differences 1 and 3, mean of squares 5, times .5."""
    record = a_trained_pass(a_pass, GATES)
    tokens = torch.zeros(2, 4, 24)
    tokens[0, 0], tokens[1, 0], tokens[:, 1:] = 1, 3, 100
    teacher = PassRecord((), TokenGrid.of_tokens(1, 4), {}, tokens)
    policy = dynamic_vit(distill_weight=0.5)
    assert policy.needs_teacher and not dynamic_vit().needs_teacher
    losses = policy.losses(record, TaskLosses({}, teacher=teacher))
    assert losses["loss_distillation"].item() == pytest.approx(0.5 * 5)


def test_the_recipe_of_rates_and_freezing():
    policy = dynamic_vit(predictor_rate=100.0, frozen_steps=2)
    assert policy.rate_factors() == {"trunk.policy": 100.0}
    assert [bool(policy.frozen(step)) for step in range(4)] == [True, True, False, False]
    assert "trunk.blocks" in policy.frozen(0)
    assert (dynamic_vit().rate_factors(), dynamic_vit().frozen(0)) == ({}, ())


# ------------------------------------------------------------------ budgets and refusals


def test_full_budget_costs_nothing(a_view, a_state):
    policy = dynamic_vit(test_keep_ratio=1.0).eval()
    state = a_state(40)
    for layer in range(12):
        state, selection = policy.before_block(a_view(layer), state)
        assert selection.total == 40 and selection.macs == 0


def test_a_first_stage_at_full_share_asks_later_ones_only(a_view, a_state):
    policy = dynamic_vit(keep_ratios=(1.0, 0.5, 0.5)).eval()
    state, totals = a_state(40), []
    for layer in (3, 6, 9):
        state, selection = policy.before_block(a_view(layer), state)
        totals.append((selection.total, selection.macs > 0))
    assert totals == [(40, False), (20, True), (20, True)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": (3, 6, 12)}, r"layers: \[12\] not in the trunk"),
        ({"keep_ratios": (0.5, 0.7, 0.3)}, "keep_ratios: .* rises, but DynamicViT cannot"),
        ({"keep_ratios": (0.5, 0.3, 0.0)}, "keep_ratios"),
        ({"predictor_rate": 0.0}, "predictor_rate"),
        ({"frozen_steps": -1}, "frozen_steps"),
    ],
    ids=str,
)
def test_refusals(config, message):
    with pytest.raises(InputError, match=message):
        dynamic_vit(**config)
