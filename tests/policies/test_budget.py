"""The thresholds that spend a budget, from what training saw. G gates."""

import copy

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import logistic_noise


def kept_of_ten(*counts):
    return (torch.arange(10) < torch.tensor(counts).unsqueeze(1)).float()


def three_gates(num_tokens=4000, seed=2):
    """Margins of three gates, wide and narrow, and Gumbel draws from them: shares .7, .45, .2."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, 2, num_tokens // 2, generator=generator)
    margins = torch.tensor([1.2, -0.3, -2.0])[:, None, None] + noise * torch.tensor(
        [1.0, 2.0, 0.5]
    ).reshape(3, 1, 1)
    keeps = margins + logistic_noise(margins, generator) > 0
    return list(margins), list(keeps)


def usage(budget, margins):
    return torch.stack(
        [(m > t).float().mean() for m, t in zip(margins, budget.thresholds, strict=True)]
    )


@pytest.fixture
def tracked():
    """A budget of three gates after thirty steps of training, and margins it has not seen."""
    budget = KeepBudget([0.7, 0.5, 0.3])
    for seed in range(30):
        budget.track(*three_gates(seed=seed))
    return budget, three_gates(seed=99)[0]


def test_a_threshold_is_a_quantile_of_the_margins():
    # Margins 0 to 128; 32 of the 129 are kept, whichever: the highest 32 are above 96.x.
    margin = torch.arange(129.0).flip(0).unsqueeze(0)
    keep = torch.zeros(1, 129, dtype=torch.bool)
    keep[0, ::4][:32] = True
    budget = KeepBudget([0.5])
    budget.track([margin], [keep])
    assert budget.kept_share.item() == pytest.approx(32 / 129)
    assert budget.thresholds.item() == pytest.approx(128 * (1 - 32 / 129), abs=1e-3)
    assert (margin > budget.thresholds).sum() == 32


def test_tokens_that_were_not_up_for_choice_do_not_count():
    inf = float("inf")
    margin = torch.tensor([[-inf, 1.0, -inf, 3.0, 5.0, -inf]])
    keep = torch.tensor([[0, 1, 0, 0, 1, 0]]).bool()
    budget = KeepBudget([0.5])
    budget.track([margin], [keep])
    assert budget.kept_share.item() == pytest.approx(2 / 3)
    curve = budget.margin_quantiles[0]
    assert (curve[0].item(), curve[64].item(), curve[-1].item()) == (1, 3, 5)


def test_a_step_without_a_choice_does_not_count():
    no_choice = torch.full((1, 4), float("-inf"))
    none_kept = torch.zeros(1, 4, dtype=torch.bool)
    budget = KeepBudget([0.5, 0.5])
    before = copy.deepcopy(budget.state_dict())
    budget.track([torch.zeros(1, 4), no_choice], [none_kept, none_kept])
    for name, value in budget.state_dict().items():
        assert torch.equal(value, before[name])


def test_tracking_starts_as_a_mean_and_goes_on_as_a_moving_one():
    budget = KeepBudget([0.5])
    keeps = kept_of_ten(2).bool(), kept_of_ten(8).bool(), kept_of_ten(5).bool()
    margin = torch.arange(10.0).unsqueeze(0)
    shares = []
    for keep in keeps:
        budget.track([margin], [keep])
        shares.append(budget.kept_share.item())
    assert shares == pytest.approx([0.2, 0.5, 0.5])
    budget.num_batches_tracked.fill_(5000)
    budget.track([margin], [kept_of_ten(10).bool()])
    assert budget.kept_share.item() == pytest.approx(0.5 + 0.1 * 0.5)


def test_thresholds_spend_what_training_spent(tracked):
    budget, margins = tracked
    # 4,000 tokens a gate: two standard errors are about 0.015.
    assert_close(usage(budget, margins), budget.kept_share, atol=0.02, rtol=0)
    assert budget.kept_share.tolist() == pytest.approx([0.74, 0.45, 0.13], abs=0.03)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.35, 0.5, 0.8, 0.95])
def test_the_knob_spends_what_it_says(tracked, ratio):
    budget, margins = tracked
    budget.set_keep_ratio(ratio)
    spent = usage(budget, margins)
    assert spent.mean().item() == pytest.approx(ratio, abs=0.02)
    assert spent[0] > spent[1] > spent[2] > 0
    assert spent.max() <= 1


def test_turning_the_knob_back_restores_what_training_saw(tracked):
    budget, _ = tracked
    thresholds = budget.thresholds.clone()
    budget.set_keep_ratio(0.2)
    assert (budget.thresholds > thresholds).all()
    budget.set_keep_ratio(None)
    assert torch.equal(budget.thresholds, thresholds)


def test_a_gate_that_fell_silent_does_not_break_the_knob():
    # Shares 0 and 0.9: no power moves a 0, and yet the mean must come out.
    budget = KeepBudget([0.5, 0.9])
    margins = [torch.arange(1000.0).unsqueeze(0)] * 2
    budget.track(margins, [margins[0] < 0, margins[0] < 900])
    budget.set_keep_ratio(0.8)
    assert usage(budget, margins).mean().item() == pytest.approx(0.8, abs=0.002)


def test_tracking_survives_a_state_dict(tracked):
    budget, _ = tracked
    state = budget.state_dict()
    assert set(state) == {"num_batches_tracked", "kept_share", "margin_quantiles"}
    fresh = KeepBudget([0.7, 0.5, 0.3])
    assert not torch.equal(fresh.thresholds, budget.thresholds)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.thresholds, budget.thresholds)
    # Into a model with its knob turned, the thresholds come out for that budget.
    other = KeepBudget([0.7, 0.5, 0.3])
    other.set_keep_ratio(0.2)
    other.load_state_dict(state)
    budget.set_keep_ratio(0.2)
    assert torch.equal(other.thresholds, budget.thresholds)
