"""SViT by hand: the gate's numbers, the ratio loss, the modes, and the budget knob.

B images, N patch tokens, G gates.
"""

import copy
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import SViT, build_policy
from svit_det.policies.base import keep_top
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import (
    TokenGate,
    keep_ratio_loss,
    logistic_noise,
    straight_through,
)
from svit_det.policies.svit import MODES
from svit_det.tokens import Selection, TokenState, TokenTrace


@pytest.fixture
def svit():
    """Factory: a small SViT, two gates before blocks 1 and 3 of four."""

    def make(**options):
        settings = {
            "embed_dim": 24,
            "depth": 4,
            "layers": [1, 3],
            "keep_ratios": [0.7, 0.5],
        } | options
        return SViT(**settings).eval()

    return make


@pytest.fixture
def margins_are():
    """Factory: make a policy's gates return typed-out margins, whatever the tokens."""

    def replace(policy, *margins):
        for gate, margin in zip(policy.gates.values(), margins, strict=True):
            gate.forward = partial(lambda margin, tokens: margin, torch.tensor(margin))
        return policy

    return replace


def a_state(num_images=1, num_tokens=4, allowed=None):
    return TokenState(
        patches=torch.zeros(num_images, num_tokens, 24),
        extra=torch.zeros(num_images, 0, 24),
        grid=(1, num_tokens),
        allowed=allowed,
    )


def kept(policy, layer=1, state=None, num_images=1):
    return policy.before_block(layer, state or a_state(num_images))[1].keep.int().tolist()


def a_trace(*selections):
    return TokenTrace(selections, grid=(1, selections[0].keep.shape[1]))


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
    assert keep.int().tolist() == [[0, 0, 0, 1]]  # a tie, margin + noise = 0, is dropped
    # sigmoid'(x) = s (1 - s) at -1, 0, 0 and 2.
    assert_close(margin.grad, torch.tensor([[0.1966119, 0.25, 0.25, 0.1049936]]))


def test_a_token_that_is_not_up_for_choice_is_dropped_without_a_gradient():
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


@pytest.mark.parametrize(("per_image", "expected"), [(False, 0.1), (True, 0.12)])
def test_the_policy_weighs_the_loss_and_looks_at_its_own_blocks(svit, per_image, expected):
    # Blocks 1 and 3: 0.1^2 and 0.2^2, mean 0.025, times 4. Per image: 0.02 and 0.04.
    policy = svit(ratio_per_image=per_image)
    whole = Selection(keep=torch.ones(2, 10).bool(), whole=True)
    gated = [
        Selection(keep=gate.bool(), gate=gate) for gate in (kept_of_ten(7, 5), kept_of_ten(3, 3))
    ]
    losses = policy.losses(a_trace(whole, gated[0], whole, gated[1]), {})
    assert list(losses) == ["loss_keep_ratio"]
    assert losses["loss_keep_ratio"].item() == pytest.approx(expected)


def test_another_loss_weight(svit):
    gate = kept_of_ten(7, 5)
    selection = Selection(keep=gate.bool(), gate=gate)
    policy = svit(layers=[0], keep_ratios=[0.7], loss_weight=2.5)
    assert policy.losses(a_trace(selection), {})["loss_keep_ratio"].item() == pytest.approx(0.025)


def test_the_loss_pushes_the_share_towards_the_target():
    margin = torch.zeros(2, 10, requires_grad=True)
    for noise, sign in ((2.0, 1), (-2.0, -1)):  # everyone kept: push down; nobody: up
        margin.grad = None
        _, gate = straight_through(margin, torch.full((2, 10), noise))
        keep_ratio_loss([gate], [0.7]).backward()
        assert (sign * margin.grad > 0).all()


# ------------------------------------------------------------------ deciding


def test_blocks_without_a_gate_take_everyone(svit):
    state = a_state()
    for layer in (0, 2):
        after, selection = svit().before_block(layer, state)
        assert after is state
        assert selection.whole
        assert selection.gate is None


def test_each_block_has_its_own_gate(svit, margins_are):
    policy = margins_are(svit(mode="argmax"), [[1.0, -1, 1, -1]], [[-1.0, -1, -1, 1]])
    assert kept(policy, layer=1) == [[1, 0, 1, 0]]
    assert kept(policy, layer=3) == [[0, 0, 0, 1]]


def test_the_order_of_the_layers_is_that_of_the_ratios(svit, margins_are):
    policy = margins_are(
        svit(layers=[3, 1], keep_ratios=[0.25, 0.75], mode="quota"),
        [[4.0, 3, 2, 1]],
        [[1.0, 2, 3, 4]],
    )
    assert kept(policy, layer=3) == [[1, 0, 0, 0]]
    assert kept(policy, layer=1) == [[0, 1, 1, 1]]


def test_argmax_drops_a_tie(svit, margins_are):
    policy = margins_are(svit(mode="argmax"), [[0.0, 1e-6, -1e-6, 0.0]], [[0.0] * 4])
    assert kept(policy) == [[0, 1, 0, 0]]
    assert kept(policy, layer=3) == [[0, 0, 0, 0]]


def test_threshold_drops_a_tie(svit, margins_are):
    policy = margins_are(svit(), [[0.5, 0.75, 0.25, 2.0]], [[0.0] * 4])
    policy.budget.thresholds[0] = 0.5
    assert kept(policy) == [[0, 1, 0, 1]]


def test_untrained_thresholds_keep_the_more_probable(svit, margins_are):
    policy = margins_are(svit(), [[0.5, -0.75, 0.0, 2.0]], [[0.0] * 4])
    assert kept(policy) == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.7, 7), (0.49, 5), (0.343, 3), (0.05, 1), (0.01, 1), (1.0, 10)]
)
def test_quota_counts_are_exact(svit, ratio, count):
    policy = svit(layers=[1], keep_ratios=[ratio], mode="quota")
    patches = torch.randn(3, 10, 24)
    state = TokenState(patches=patches, extra=patches[:, :0], grid=(2, 5))
    assert policy.before_block(1, state)[1].keep.sum(dim=1).tolist() == [count] * 3


def test_quota_takes_the_highest_margins_even_among_ties(svit, margins_are):
    policy = svit(keep_ratios=[0.5, 0.5], mode="quota")
    margins_are(policy, [[-3.0, -1, -2, -4]], [[7.0, 7, 7, 7]])
    assert kept(policy) == [[0, 1, 1, 0]]
    assert sum(kept(policy, layer=3)[0]) == 2


def test_a_full_quota_is_whole(svit):
    policy = svit(keep_ratios=[1.0, 0.5], mode="quota")
    assert policy.before_block(1, a_state())[1].whole
    assert not policy.before_block(3, a_state())[1].whole


def test_keep_top_by_hand():
    score = torch.tensor([[0.1, 0.9, 0.5], [3.0, -1.0, 2.0]])
    assert keep_top(score, 2).int().tolist() == [[0, 1, 1], [1, 0, 1]]
    assert keep_top(score, 0).int().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert keep_top(score, 3).all()


def test_samples_depend_on_the_seed_and_the_gate_but_not_on_the_image(svit, margins_are):
    zeros = [[0.0] * 64] * 2
    draws = {}
    for seed in (0, 1):
        policy = margins_are(svit(mode="sample", sample_seed=seed), zeros, zeros)
        for layer in (1, 3):
            keep = kept(policy, layer, a_state(2, 64))
            assert keep[0] == keep[1]
            assert 16 < sum(keep[0]) < 48
            draws[seed, layer] = tuple(keep[0])
    assert len(set(draws.values())) == 4


def test_training_draws_anew_and_hands_out_a_gate(svit):
    policy = svit().train()
    state = a_state(2, 40)
    first, second = (policy.before_block(1, state)[1] for _ in range(2))
    assert not torch.equal(first.keep, second.keep)
    assert torch.equal(first.gate, first.keep.float())
    assert first.gate.requires_grad
    assert policy.eval().before_block(1, state)[1].gate is None


def test_training_pays_no_heed_to_the_knob(svit):
    policy = svit(test_keep_ratio=1.0).train()
    assert not policy.before_block(1, a_state(2, 40))[1].whole


@pytest.mark.parametrize(
    ("mode", "knob"),
    [(mode, None) for mode in (*MODES, "training")]
    + [(mode, 1.0) for mode in ("threshold", "quota", "training")],
)
def test_only_allowed_tokens_are_chosen(svit, mode, knob):
    policy = svit(
        mode="threshold" if mode == "training" else mode, keep_ratios=[0.8, 1], test_keep_ratio=knob
    )
    policy.train(mode == "training")
    allowed = torch.rand(2, 40) < 0.5
    patches = torch.randn(2, 40, 24)
    state = TokenState(patches=patches, extra=patches[:, :0], grid=(5, 8), allowed=allowed)
    for layer in (1, 3):
        selection = policy.before_block(layer, state)[1]
        assert not selection.whole
        assert not (selection.keep & ~allowed).any()
        assert selection.keep.any()
        if selection.gate is not None:
            assert not selection.gate[~allowed].any()


@pytest.mark.parametrize("mode", MODES)
def test_where_nobody_is_allowed_nobody_is_chosen(svit, mode):
    state = a_state(2, 6, allowed=torch.zeros(2, 6, dtype=torch.bool))
    assert kept(svit(mode=mode), state=state) == [[0] * 6] * 2


def test_decisions_cost_multiply_adds_where_they_are_made(svit):
    macs = 10 * (24 * 6 + 6 * 2)
    assert svit().decision_macs(10) == {1: macs, 3: macs}
    assert svit(test_keep_ratio=1.0).decision_macs(10) == {}
    assert svit(mode="quota", keep_ratios=[1.0, 0.5]).decision_macs(10) == {3: macs}


# ------------------------------------------------------------------ no gates at all


@pytest.mark.parametrize("mode", ["threshold", "quota"])
def test_without_layers_it_is_the_dense_model(svit, tiny_trunk, images, mode):
    policy = svit(layers=[], keep_ratios=[], mode=mode)
    trunk = tiny_trunk(policy, depth=4)
    state = trunk.train()(images(2))
    trace = TokenTrace(state.trace, state.grid)
    assert all(selection.whole for selection in state.trace)
    assert policy.losses(trace, {}) == {}
    policy.track(trace)
    policy.set_keep_ratio(0.5)
    twin = svit(layers=[], keep_ratios=[], mode=mode)
    twin.load_state_dict(policy.state_dict())


# ------------------------------------------------------------------ the budget


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
    nobody = torch.full((1, 4), float("-inf"))
    none_kept = torch.zeros(1, 4, dtype=torch.bool)
    budget = KeepBudget([0.5, 0.5])
    before = copy.deepcopy(budget.state_dict())
    budget.track([torch.zeros(1, 4), nobody], [none_kept, none_kept])
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
    assert budget.kept_share.item() == pytest.approx(0.5 + 0.01 * 0.5)


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
    quotas = budget.quota_ratios
    budget.set_keep_ratio(0.2)
    assert (budget.thresholds > thresholds).all()
    budget.set_keep_ratio(None)
    assert torch.equal(budget.thresholds, thresholds)
    assert budget.quota_ratios == quotas == (0.7, 0.5, 0.3)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "targets", [(0.7, 0.5, 0.3), (1.0, 1.0), (1.0, 0.4), (0.9,), (0.7,) * 3 + (0.343,) * 6]
)
def test_quotas_follow_the_knob(targets, ratio):
    quotas = KeepBudget(targets, test_keep_ratio=ratio).quota_ratios
    assert sum(quotas) / len(quotas) == pytest.approx(ratio, abs=1e-6)
    assert list(quotas) == sorted(quotas, reverse=True)
    assert all(0 <= quota <= 1 for quota in quotas)


def test_a_gate_that_fell_silent_does_not_break_the_knob():
    # Shares 0 and 0.9: no power moves a 0, and yet the mean must come out.
    budget = KeepBudget([0.5, 0.9])
    margins = [torch.arange(1000.0).unsqueeze(0)] * 2
    budget.track(margins, [margins[0] < 0, margins[0] < 900])
    budget.set_keep_ratio(0.8)
    assert usage(budget, margins).mean().item() == pytest.approx(0.8, abs=0.002)


def test_a_budget_of_one_needs_no_looking(svit, tiny_trunk, images):
    for mode in ("threshold", "quota"):
        trunk = tiny_trunk(svit(mode=mode, test_keep_ratio=1.0), depth=4)
        asked = []
        for gate in trunk.policy.gates.values():
            gate.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        assert all(selection.whole for selection in trunk(images(2)).trace)
        assert asked == []
        trunk.policy.set_keep_ratio(None)
        assert not all(selection.whole for selection in trunk(images(2)).trace)
        assert asked == [1, 1]


def test_tracking_survives_a_state_dict(tracked):
    budget, _ = tracked
    state = budget.state_dict()
    assert set(state) == {"num_batches_tracked", "kept_share", "margin_quantiles"}
    fresh = KeepBudget([0.7, 0.5, 0.3])
    assert not torch.equal(fresh.thresholds, budget.thresholds)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.thresholds, budget.thresholds)
    # Into a model with its knob turned, the thresholds come out for that budget.
    other = KeepBudget([0.7, 0.5, 0.3], test_keep_ratio=0.2)
    other.load_state_dict(state)
    budget.set_keep_ratio(0.2)
    assert torch.equal(other.thresholds, budget.thresholds)


def test_a_policy_can_be_pickled(svit):
    policy = svit()
    again = pickle.loads(pickle.dumps(policy))
    assert torch.equal(again.gates["1"].fc1.weight, policy.gates["1"].fc1.weight)


@pytest.mark.parametrize("ratio", [None, 0.3, 0.8])
def test_the_knob_on_a_whole_trunk(make_policy, tiny_trunk, images, ratio):
    trunk = tiny_trunk(make_policy("SViT")).train()
    batch = images(4, (8, 8))
    trained = []
    for _ in range(25):
        with torch.no_grad():
            state = trunk(batch)
        trace = TokenTrace(state.trace, state.grid)
        trunk.policy.track(trace)
        trained.append(trace.keep_ratios()[3:].mean())
    trunk.policy.set_keep_ratio(ratio)
    with torch.no_grad():
        state = trunk.eval()(batch)
    spent = TokenTrace(state.trace, state.grid).keep_ratios()[3:].mean().item()
    wanted = torch.stack(trained).mean().item() if ratio is None else ratio
    # Whom a block skips changes what later gates see, so the margins are not quite those tracked.
    assert spent == pytest.approx(wanted, abs=0.06)


def test_quota_spends_the_knob_on_a_whole_trunk(make_policy, tiny_trunk, images):
    policy = make_policy("SViT")
    policy.mode = "quota"
    policy.set_keep_ratio(0.4)
    with torch.no_grad():
        state = tiny_trunk(policy)(images(2, (10, 10)))
    ratios = TokenTrace(state.trace, state.grid).keep_ratios()
    assert ratios[:3].tolist() == [1, 1, 1]
    assert ratios[3:].mean().item() == pytest.approx(0.4, abs=0.005)


# ------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_ratios": [0.7]}, "KEEP_RATIOS has 1 targets for 2 LAYERS"),
        ({"layers": [1]}, "KEEP_RATIOS has 2 targets for 1 LAYERS"),
        ({"layers": [1, 4]}, r"LAYERS: \[4\] not in the trunk, whose 4 blocks .* 0 to 3"),
        ({"layers": [-1, 2]}, r"LAYERS: \[-1\]"),
        ({"layers": [1, 1]}, "LAYERS names a block twice"),
        ({"keep_ratios": [0.7, 0.0]}, r"KEEP_RATIOS: \[0.0\] must lie in \(0, 1\]"),
        ({"keep_ratios": [1.2, 0.5]}, r"KEEP_RATIOS: \[1.2\]"),
        ({"keep_ratios": [float("nan"), 0.5]}, r"KEEP_RATIOS: \[nan\]"),
        ({"mode": "topk"}, "SVIT.MODE: no mode 'topk'; choose one of threshold"),
        ({"test_keep_ratio": 0.0}, "TEST_KEEP_RATIO: 0.0 must lie in"),
        ({"test_keep_ratio": 1.5}, "TEST_KEEP_RATIO: 1.5 must lie in"),
        ({"test_keep_ratio": "half"}, "TEST_KEEP_RATIO: half must lie in"),
        ({"test_keep_ratio": 0.5, "mode": "argmax"}, "TEST_KEEP_RATIO works .* not in argmax"),
        ({"test_keep_ratio": 0.5, "mode": "sample"}, "TEST_KEEP_RATIO works .* not in sample"),
    ],
    ids=str,
)
def test_bad_settings_are_named(svit, options, message):
    with pytest.raises(InputError, match=f"MODEL.TOKEN_POLICY.{message}"):
        svit(**options)


def test_the_knob_checks_too(svit):
    with pytest.raises(InputError, match="TEST_KEEP_RATIO: 2 must lie in"):
        svit().set_keep_ratio(2)
    with pytest.raises(InputError, match=r"TEST_KEEP_RATIO works .* not in argmax"):
        svit(mode="argmax").set_keep_ratio(0.5)
    svit(mode="argmax").set_keep_ratio(None)


def test_every_setting_reaches_the_policy(token_config):
    cfg = token_config(
        NAME="SViT",
        LAYERS=[2, 5],
        KEEP_RATIOS=[0.6, 0.4],
        LOSS_WEIGHT=3.0,
        TEST_KEEP_RATIO=0.25,
        SVIT=SimpleNamespace(MODE="quota", SAMPLE_SEED=9, RATIO_PER_IMAGE=True),
    )
    policy = build_policy(cfg, embed_dim=24, depth=6)
    assert isinstance(policy, SViT)
    assert (policy.layers, policy.keep_ratios) == ((2, 5), (0.6, 0.4))
    assert (policy.loss_weight, policy.ratio_per_image) == (3.0, True)
    assert (policy.mode, policy.sample_seed) == ("quota", 9)
    assert policy.budget.test_keep_ratio == 0.25


def test_the_defaults_are_the_papers(token_config):
    policy = build_policy(token_config(NAME="SViT"), embed_dim=24, depth=12)
    assert policy.layers == (3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert policy.keep_ratios == (0.7, 0.7, 0.7, 0.49, 0.49, 0.49, 0.343, 0.343, 0.343)
    assert (policy.loss_weight, policy.ratio_per_image, policy.mode) == (4.0, False, "threshold")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NAME": "SVit"}, "TOKEN_POLICY.NAME: 'SVit' is not registered; there are .*SViT"),
        ({"WRAPPERS": ["Monoton"]}, "WRAPPERS: 'Monoton' is not registered; there are .*Monotone"),
    ],
)
def test_a_name_that_nobody_registered(token_config, changes, message):
    with pytest.raises(InputError, match=message):
        build_policy(token_config(**changes), embed_dim=24, depth=12)
