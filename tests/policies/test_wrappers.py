"""The ablations around a policy: no reactivation, and forgetting what is skipped."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import Forgetful, Monotone, SViT, build_policy
from svit_det.policies.base import TokenPolicy, everyone
from svit_det.policies.svit import MODES
from svit_det.tokens import Selection, TokenState, TokenTrace
from svit_det.vit.execution import MaskedTokens

DEPTH = 12
WRAPPERS = [Monotone, Forgetful]


@pytest.fixture
def svit():
    """Factory: an SViT with gates before blocks 3, 6 and 9, as the ablation is configured."""

    def make(**options):
        settings = {"layers": [3, 6, 9], "keep_ratios": [0.7, 0.49, 0.343]} | options
        return SViT(embed_dim=24, depth=DEPTH, **settings)

    return make


def a_state(num_tokens=4, **fields):
    return TokenState(
        patches=torch.randn(1, num_tokens, 24),
        extra=torch.zeros(1, 0, 24),
        grid=(1, num_tokens),
        **fields,
    )


def played(policy, state, depth):
    """The selections of `depth` blocks of a policy that looks at no values."""
    selections = []
    for layer in range(depth):
        state, selection = policy.before_block(layer, state)
        state = policy.after_block(layer, state, state, selection)
        selections.append(selection)
    return selections


def chosen(*keep, gate=None):
    keep = torch.tensor([keep]).bool()
    return Selection(keep=keep, gate=gate)


# ------------------------------------------------------------------ Monotone


@pytest.mark.parametrize("mode", [*MODES, "training"])
@pytest.mark.parametrize("layers", [(3, 6, 9), range(12), (0, 11)], ids=str)
def test_monotone_never_picks_up_again(svit, tiny_trunk, images, mode, layers):
    inner = svit(
        mode="threshold" if mode == "training" else mode,
        layers=layers,
        keep_ratios=[0.9] * len(layers),
    )
    for gate in inner.gates.values():  # mostly in favour: otherwise half are lost at each
        gate.forward = partial(lambda margin, tokens: margin, 2 + torch.randn(2, 42))
    batch = images(2, (6, 7))
    reactivated = {}
    for name, policy in (("with", Monotone(inner)), ("without", inner)):
        trunk = tiny_trunk(policy).train(mode == "training")
        keeps = torch.stack([selection.keep for selection in trunk(batch).trace])
        reactivated[name] = bool((keeps[1:] & ~keeps[:-1]).any())
        assert keeps[max(layers)].any()
        assert not keeps[max(layers)].all()
    assert reactivated == {"with": False, "without": True}


def test_a_decision_is_multiplied_by_the_one_before(scripted):
    policy = Monotone(scripted([None, chosen(1, 1, 0, 1), None, chosen(0, 1, 1, 1), None]))
    selections = played(policy, a_state(), 5)
    assert [s.keep.int().tolist()[0] for s in selections] == [
        [1, 1, 1, 1],
        [1, 1, 0, 1],
        [1, 1, 0, 1],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
    ]
    assert [s.whole for s in selections] == [True, False, False, False, False]
    assert all(s.gate is None for s in selections)


def test_gates_multiply_and_are_inherited_without_a_gradient(scripted):
    first = torch.tensor([[1.0, 1, 0, 1]], requires_grad=True)
    second = torch.tensor([[0.0, 1, 1, 1]], requires_grad=True)
    policy = Monotone(
        scripted([chosen(1, 1, 0, 1, gate=first), None, chosen(0, 1, 1, 1, gate=second), None])
    )
    gates = [selection.gate for selection in played(policy, a_state(), 4)]
    assert gates[0] is first
    assert torch.equal(gates[1], first)
    assert torch.equal(gates[2], torch.tensor([[0.0, 1, 0, 1]]))
    assert torch.equal(gates[3], gates[2])
    assert [gate.requires_grad for gate in gates] == [True, False, True, False]
    gates[2].sum().backward()  # the product: each learns where the other kept
    assert torch.equal(first.grad, second.detach())
    assert torch.equal(second.grad, first.detach())


def test_a_gate_after_a_decision_without_one_agrees_with_the_mask(scripted):
    gate = torch.ones(1, 4)
    policy = Monotone(scripted([chosen(1, 0, 1, 1), chosen(1, 1, 1, 1, gate=gate)]))
    selection = played(policy, a_state(), 2)[1]
    assert selection.keep.int().tolist() == [[1, 0, 1, 1]]
    assert selection.gate.tolist() == [[1, 0, 1, 1]]


def test_the_policy_inside_is_told_who_is_left():
    told = []

    class Listener(TokenPolicy):
        def before_block(self, layer, state):
            told.append(None if state.allowed is None else state.allowed.int().tolist()[0])
            return state, chosen(1, 1, 0, 1) if layer == 1 else everyone(state)

    state, policy = a_state(), Monotone(Listener())
    for layer in range(4):
        state, selection = policy.before_block(layer, state)
        state = policy.after_block(layer, state, state, selection)
        assert state.allowed is None  # what was said to the policy inside stays inside
    assert told == [None, None, [1, 1, 0, 1], [1, 1, 0, 1]]


def test_what_was_allowed_from_outside_stays_so():
    allowed = torch.tensor([[1, 0, 1, 1]]).bool()
    policy = Monotone(SViT(embed_dim=24, depth=2, layers=[0, 1], keep_ratios=[0.5, 0.5])).train()
    for _ in range(5):
        for selection in played(policy, a_state(allowed=allowed), 2):
            assert not selection.keep[0, 1]


def test_the_policy_inside_may_remember_at_every_moment(tiny_trunk, images):
    seen = []

    def one_more(state):
        seen.append(state.memory)
        return replace(state, memory=(state.memory or 0) + 1)

    class Counts(TokenPolicy):
        needs_class_token = True
        score_layers = frozenset({0})
        attention_layers = frozenset({1})

        def before_block(self, layer, state):
            return one_more(state), everyone(state)

        def before_attention(self, layer, entered, selection, attention):
            return one_more(entered), selection

        def after_attention(self, layer, entered, attended, selection, attention):
            return one_more(attended), selection

        def after_block(self, layer, entered, processed, selection):
            return one_more(processed)

    tiny_trunk(Monotone(Counts()), depth=3)(images(1))
    assert seen == [None, 1, 2, 3, 4, 5, 6, 7]


def test_the_policy_inside_need_not_remember_whom_it_dropped_inside_a_block(tiny_trunk, images):
    class DropsOnce(TokenPolicy):
        needs_class_token = True
        attention_layers = frozenset({1})

        def after_attention(self, layer, entered, attended, selection, attention):
            keep = selection.keep & (torch.arange(15) < 9)
            return attended, replace(selection, keep=keep, whole=False)

    class DropsEarlier(TokenPolicy):
        needs_class_token = True
        score_layers = frozenset({1})

        def before_attention(self, layer, entered, selection, attention):
            keep = selection.keep & (torch.arange(15) < 9)
            return entered, replace(selection, keep=keep, whole=False)

    for inside in (DropsOnce(), DropsEarlier()):
        trunk = tiny_trunk(Monotone(inside), depth=4)
        assert [s.keep.sum().item() for s in trunk(images(1)).trace] == [15, 9, 9, 9]


def test_the_policy_inside_keeps_its_own_memory(scripted):
    class Counts(scripted):
        def before_block(self, layer, state):
            state, selection = super().before_block(layer, state)
            seen.append(state.memory)
            return replace(state, memory=(state.memory or 0) + 1), selection

    seen = []
    played(Monotone(Monotone(Counts([None, chosen(1, 0, 1, 1), None]))), a_state(), 3)
    assert seen == [None, 1, 2]


def test_whom_a_block_drops_inside_is_gone_for_good(make_policy, tiny_trunk, images):
    batch = images(2, (5, 8))
    trunk = tiny_trunk(make_policy("Monotone(AttentiveHalf)"))
    counts = [selection.keep.sum(dim=1).tolist() for selection in trunk(batch).trace]
    assert counts == [[40, 40]] * 2 + [[20, 20]] * 3 + [[10, 10]] * 7
    for training in (False, True):  # with gates besides
        trunk = tiny_trunk(make_policy("Monotone(GatedHalf)")).train(training)
        keeps = torch.stack([selection.keep for selection in trunk(batch).trace])
        assert not (keeps[1:] & ~keeps[:-1]).any()


def test_the_ratio_loss_sees_the_product(svit, tiny_trunk, images):
    trunk = tiny_trunk(Monotone(svit())).train()
    state = trunk(images(2, (6, 7)))
    trace = TokenTrace(state.trace, state.grid)
    shares = trace.keep_ratios()[[3, 6, 9]]
    expected = 4 * (shares - torch.tensor([0.7, 0.49, 0.343])).square().mean()
    assert_close(trunk.policy.losses(trace, {})["loss_keep_ratio"], expected)
    assert shares[0] > shares[1] > shares[2]


def test_thresholds_under_monotone_spend_what_training_spent(svit, tiny_trunk, images):
    trunk = tiny_trunk(Monotone(svit())).train()
    batch = images(4, (10, 10))
    trained = []
    for _ in range(25):
        with torch.no_grad():
            state = trunk(batch)
        trace = TokenTrace(state.trace, state.grid)
        trunk.policy.track(trace)
        trained.append(trace.keep_ratios())
    with torch.no_grad():
        state = trunk.eval()(batch)
    spent = TokenTrace(state.trace, state.grid).keep_ratios()
    # Whom a block skips changes what later gates see, so the margins are not quite those tracked.
    assert_close(spent, torch.stack(trained).mean(dim=0), atol=0.06, rtol=0)


# ------------------------------------------------------------------ Forgetful


@pytest.mark.parametrize("gated", [False, True], ids=["packed", "masked"])
def test_forgetful_zeroes_who_was_skipped(scripted, tiny_trunk, images, gated):
    keep = torch.rand(2, 15) < 0.5
    selection = Selection(keep=keep, gate=keep.float() if gated else None)
    batch = images(2)
    with torch.no_grad():
        forgot = tiny_trunk(Forgetful(scripted([selection])), depth=1)
        kept = tiny_trunk(scripted([selection]), depth=1)
        kept.load_state_dict(forgot.state_dict())
        forgotten, preserved = forgot(batch), kept(batch)
    assert not forgotten.patches[~keep].any()
    assert_close(forgotten.patches[keep], preserved.patches[keep])
    assert preserved.patches[~keep].any()


def test_forgetful_leaves_a_whole_block_alone(scripted, tiny_trunk, images):
    batch = images(2)
    forgot = tiny_trunk(Forgetful(scripted([None, None])), depth=2)
    dense = tiny_trunk(depth=2)
    dense.load_state_dict(forgot.state_dict())
    assert torch.equal(forgot(batch).patches, dense(batch).patches)


@pytest.mark.parametrize("name", ["SViT", "EViT", "ATS", "EvoViT"])
def test_a_dropped_token_keeps_its_last_value_or_is_zero(make_policy, tiny_trunk, images, name):
    """The default and `Forgetful`, side by side: what the map holds where block 11 skipped."""
    policy = make_policy(name)
    trunk, batch = tiny_trunk(policy, spread=0.3), images(2, (5, 7))
    states = {}
    with torch.no_grad():
        state = trunk.embed(batch)
        last = state.patches.clone()  # of each token, after the last block that it had a part in
        for layer in range(12):
            state = trunk.run(state, layer, layer + 1)
            selection = state.trace[-1]
            took_part = selection.keep
            if name == "EViT" and selection.entered is not None:  # through the attention
                took_part = selection.entered
            last[took_part] = state.patches[took_part]
        states["kept"] = state
        trunk.policy = Forgetful(policy)
        states["zeroed"] = trunk(batch)
    skipped = ~states["kept"].trace[-1].keep
    assert skipped.any(dim=1).all()
    assert torch.equal(states["kept"].patches[skipped], last[skipped])
    assert states["kept"].patches[skipped].any(dim=-1).all()
    assert not states["zeroed"].patches[~states["zeroed"].trace[-1].keep].any()


def test_the_gradient_of_forgetting_is_that_of_gate_times_new(scripted, tiny_trunk, images):
    keep = torch.rand(2, 15) < 0.5
    gate = keep.float().requires_grad_()
    trunk = tiny_trunk(Forgetful(scripted([Selection(keep=keep, gate=gate)])), depth=1)
    batch, weights = images(2), torch.randn(2, 15, 24)
    (trunk(batch).patches * weights).sum().backward()

    # By hand: what the block computes for everyone, whether it counts or not.
    block = trunk.blocks[0]
    with torch.no_grad():
        tokens = MaskedTokens.enter(trunk.embed(batch), Selection(keep=keep, gate=keep.float()))
        rows = tokens.rows()
        rows = rows + block.attn(block.norm1(rows), tokens.segments)
        new = (rows + block.mlp(block.norm2(rows))).unflatten(0, (2, 15))
        # d (gate * new) / d gate = new
        assert_close(gate.grad, (new * weights).sum(dim=-1), atol=1e-5, rtol=1e-5)


def test_forgetting_passes_no_gradient_to_the_old_value(scripted):
    keep = torch.tensor([[1, 0, 1, 0]]).bool()
    selection = Selection(keep=keep, gate=keep.float())
    entered = a_state()
    old = entered.patches.requires_grad_()
    new = torch.randn(1, 4, 24)
    processed = MaskedTokens.enter(entered, selection).write_back(new.flatten(0, 1))
    after = Forgetful(scripted([])).after_block(0, entered, processed, selection)
    assert torch.equal(after.patches.detach(), new * keep.unsqueeze(-1))
    after.patches.sum().backward()
    assert not old.grad.any()


def test_forgetful_says_that_it_does_not_preserve(svit):
    assert svit().preserves
    assert Monotone(svit()).preserves
    assert not Forgetful(svit()).preserves
    assert not Monotone(Forgetful(svit())).preserves


def test_a_forgetful_model_in_half_precision_stays_in_it(svit, tiny_trunk, images):
    trunk = tiny_trunk(Forgetful(svit())).bfloat16().train()
    assert trunk(images(2).bfloat16()).patches.dtype == torch.bfloat16


# ------------------------------------------------------------------ any wrapper


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_the_policy_inside_says_about_itself_is_passed_on(wrapper, make_policy, svit):
    attentive = wrapper(make_policy("AttentiveHalf"))
    assert attentive.needs_class_token
    assert attentive.attention_layers == {2, 5}
    assert not wrapper(svit()).needs_class_token
    assert wrapper(svit()).decision_macs(7) == svit().decision_macs(7) != {}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_tracking_reaches_the_policy_inside(wrapper, svit, tiny_trunk, images):
    trunk = tiny_trunk(wrapper(svit())).train()
    state = trunk(images(2, (6, 7)))
    trunk.policy.track(TokenTrace(state.trace, state.grid))
    assert trunk.policy.policy.budget.num_batches_tracked == 1


NESTINGS = [
    lambda policy: policy,
    Monotone,
    Forgetful,
    lambda policy: Forgetful(Monotone(policy)),
    lambda policy: Monotone(Forgetful(policy)),
]
IDS = ["bare", "Monotone", "Forgetful", "Forgetful(Monotone)", "Monotone(Forgetful)"]


@pytest.mark.parametrize("saved", NESTINGS, ids=IDS)
@pytest.mark.parametrize("loaded", NESTINGS, ids=IDS)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
def test_one_checkpoint_serves_with_and_without_wrappers(svit, saved, loaded, inside):
    def model(wrap):
        policy = wrap(svit())
        return policy, nn.ModuleDict({"policy": policy, "head": nn.Linear(2, 2)})

    source, target = (model(wrap)[inside] for wrap in (saved, loaded))
    state = source.state_dict()
    bare = model(NESTINGS[0])[inside].state_dict()
    assert set(state) == set(bare)
    result = target.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("wrap", NESTINGS[1:], ids=IDS[1:])
def test_a_wrapped_policy_refuses_what_does_not_fit(svit, wrap):
    state = svit().state_dict()
    state["gates.7.fc1.weight"] = state.pop("gates.3.fc1.weight")
    with pytest.raises(RuntimeError, match=r"(?s)gates.3.fc1.weight.*gates.7.fc1.weight"):
        wrap(svit()).load_state_dict(state)


def test_thresholds_are_refreshed_inside_a_wrapper(svit, tiny_trunk, images):
    trunk = tiny_trunk(svit()).train()
    state = trunk(images(2, (6, 7)))
    trunk.policy.track(TokenTrace(state.trace, state.grid))
    wrapped = tiny_trunk(Forgetful(Monotone(svit())))
    wrapped.load_state_dict(trunk.state_dict())
    thresholds = wrapped.policy.policy.policy.budget.thresholds
    assert thresholds.any()
    assert torch.equal(thresholds, trunk.policy.budget.thresholds)


@pytest.mark.parametrize("wrap", NESTINGS[3:], ids=IDS[3:])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nested_wrappers_do_both(svit, tiny_trunk, images, wrap, training):
    trunk = tiny_trunk(wrap(svit())).train(training)
    state = trunk(images(2, (6, 7)))
    keeps = torch.stack([selection.keep for selection in state.trace])
    assert not (keeps[1:] & ~keeps[:-1]).any()
    assert not keeps[-1].all()
    assert not state.patches[~keeps[-1]].any()
    assert state.patches[keeps[-1]].any(dim=-1).all()


def test_wrappers_are_named_innermost_first(token_config):
    cfg = token_config(NAME="SViT", WRAPPERS=["Monotone", "Forgetful"])
    policy = build_policy(cfg, embed_dim=24, depth=12)
    assert isinstance(policy, Forgetful)
    assert isinstance(policy.policy, Monotone)
    assert isinstance(policy.policy.policy, SViT)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"WRAPPERS": ["Forgetful", "Forgetful"]}, "WRAPPERS"),
        ({"WRAPPERS": ["Monotone"], "TEST_KEEP_RATIO": 0.5}, "TEST_KEEP_RATIO"),
    ],
)
def test_what_does_not_go_together_is_refused(token_config, changes, key):
    with pytest.raises(InputError, match=f"MODEL.TOKEN_POLICY.{key}"):
        build_policy(token_config(NAME="SViT", **changes), embed_dim=24, depth=12)
