"""A budget is met on every image, whatever its margins, and the count still varies.

B images, N patch tokens; laws run over every policy whose thresholds can follow.
"""

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import POLICY_REGISTRY, TokenPolicy
from svit_det.policies.budget import BAND, KeepBudget
from svit_det.policies.ranking import keep_upper
from svit_det.vit import Execution, Masked, Padded

THRESHOLDED = [
    name
    for name in POLICY_REGISTRY.names()
    if POLICY_REGISTRY.get(name).follow is not TokenPolicy.follow
]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def test_there_are_such_policies():
    assert {"SViT", "SPViT", "IARED2", "AdaViT"} <= set(THRESHOLDED)


# ------------------------------------------------------------------ the rule, typed out


@pytest.fixture
def budget():
    """Of one gate whose margins in training were even between 0 and 1; the budget is .5."""
    budget = KeepBudget([0.5])
    margin = torch.linspace(0, 1, 1001).unsqueeze(0)
    budget.track([margin], [margin > 0.5])
    budget.set_keep_ratio(0.5)
    return budget


@pytest.mark.parametrize(
    ("above", "kept"),
    # s + d BAND / (BAND + |d|) with s = .5 and BAND = .03, of 1000 tokens.
    [(500, 500), (510, 508), (480, 488), (530, 515), (600, 523), (1000, 528), (0, 472)],
)
def test_the_count_of_an_image(budget, above, kept):
    margin = torch.where(torch.arange(1000) < above, 0.75, 0.25).unsqueeze(0)
    margin = margin - torch.arange(1000) / 1e5
    assert budget.decide(0, margin).sum() == kept
    assert budget.decide(0, margin)[0, :kept].all()


def test_the_budget_holds_however_the_margins_lie(budget):
    generator = torch.Generator().manual_seed(0)
    margin = torch.randn(200, 1024, generator=generator)
    spread = torch.logspace(-3, 3, 200).unsqueeze(1)
    for shift in (-50.0, 0.0, 0.5, 50.0):
        share = budget.decide(0, margin * spread + shift).float().mean(dim=1)
        assert (share - 0.5).abs().max() <= BAND + 0.5 / 1024


def test_without_a_budget_the_threshold_alone_decides(budget):
    budget.set_keep_ratio(None)
    margin = torch.linspace(-1, 2, 1000).unsqueeze(0)
    assert torch.equal(budget.decide(0, margin), margin > budget.thresholds[0])


def test_the_upper_tokens_of_each_image():
    inf = float("inf")
    score = torch.tensor([[3.0, 1, 2, 1], [-inf, 5, -inf, 5], [float("nan"), 0, 1, 2]])
    kept = keep_upper(score, torch.tensor([3, 3, 2]))
    assert kept.tolist() == [
        [True, True, True, False],
        [False, True, False, True],
        [True, False, False, True],
    ]


# ------------------------------------------------------------------ the laws under a budget


def under_budget(make_policy, tiny_trunk, name, ratio, shift=0.0):
    """A trunk whose policy has seen some training, all margins of which were `shift` lower."""
    trunk = tiny_trunk(make_policy(name))
    with torch.no_grad():
        for module in trunk.policy.modules():
            if isinstance(module, KeepBudget):
                levels = torch.linspace(-3, 3, module.margin_quantiles.shape[1])
                module.margin_quantiles.copy_(levels - shift)
    trunk.policy.set_keep_ratio(ratio)
    return trunk


def chosen_shares(trunk, state):
    """(B, deciding blocks) shares of patch tokens."""
    layers = trunk.policy.schedule.layers
    return torch.stack(
        [state.history[layer].selection.keep.float().mean(dim=1) for layer in layers], dim=1
    )


@pytest.mark.parametrize("following", [False, True], ids=["trained", "following"])
@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", THRESHOLDED)
def test_every_image_meets_the_budget(
    make_policy, tiny_trunk, images, pass_of, name, ratio, shift, following
):
    # Images that skip a block as a whole skip its tokens whatever the budget of tokens says.
    decides = "decide" in POLICY_REGISTRY.get(name).Config.described()
    config = {"decide": ("tokens",)} if decides else {}
    trunk = under_budget(lambda n: make_policy(n, **config), tiny_trunk, name, ratio, shift)
    with torch.no_grad():
        for _ in range(3 if following else 0):
            trunk.policy.follow(pass_of(trunk, trunk(images(2, (10, 10)))))
        shares = chosen_shares(trunk, trunk(images(3, (12, 12))))
    assert (shares.mean(dim=1) - ratio).abs().max() < BAND + 0.5 / 144


@pytest.mark.parametrize("following", [False, True], ids=["trained", "following"])
@pytest.mark.parametrize("name", THRESHOLDED)
def test_executions_and_batches_agree(
    make_policy, tiny_trunk, images, pass_of, forced, replay, same_outcome, name, following
):
    """Also where the thresholds have followed other images before."""
    trunk, batch = under_budget(make_policy, tiny_trunk, name, 0.5), images(3, (5, 7))
    with torch.no_grad():
        trained = chosen_shares(trunk, trunk(batch))
        for _ in range(3 if following else 0):
            trunk.policy.follow(pass_of(trunk, trunk(images(2, (6, 4)))))
        shares = chosen_shares(trunk, trunk(batch))
        assert torch.equal(shares, trained) is not following
        together = trunk(batch)
        alone = [trunk(batch[image : image + 1]) for image in range(3)]
        assert_close(together.tokens, torch.cat([each.tokens for each in alone]), **TOLERANCE)
        trunk.policy = forced(trunk.policy, replay(together.history))
        packed = trunk(batch)
        for hard in (Masked(), Padded(1.0)):
            trunk.execution = Execution(hard=hard)
            same_outcome(trunk(batch), packed)


# ------------------------------------------------------------------ following recent images


@pytest.mark.parametrize("name", THRESHOLDED)
def test_following_brings_the_thresholds_to_the_images(
    make_policy, tiny_trunk, images, pass_of, name
):
    trunk, batch = under_budget(make_policy, tiny_trunk, name, 0.5, shift=20.0), images(2, (8, 8))
    saved = {key: value.clone() for key, value in trunk.state_dict().items()}
    with torch.no_grad():
        before = chosen_shares(trunk, trunk(batch))
        for _ in range(5):
            trunk.policy.follow(pass_of(trunk, trunk(batch)))
        after = chosen_shares(trunk, trunk(batch))
        trunk.policy.forget()
        again = chosen_shares(trunk, trunk(batch))
    assert (after.mean() - 0.5).abs() < (before.mean() - 0.5).abs()
    assert torch.equal(again, before)
    assert saved.keys() == trunk.state_dict().keys()
    assert all(torch.equal(value, saved[key]) for key, value in trunk.state_dict().items())
