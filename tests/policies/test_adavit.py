"""AdaViT: its decisions, losses, thresholds and settings by hand.

B images, N patch tokens, C = 24 channels, h = 3 heads.
"""

from dataclasses import replace
from itertools import combinations
from math import log

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TaskLosses, TokenPolicy, TrunkShape, build_policy, decision
from svit_det.policies.adavit import AdaViT
from svit_det.policies.adavit_config import DECISIONS, MODES
from svit_det.tokens import BlockParts, Selection
from svit_det.vit import Execution, Masked
from svit_det.vit.execution import run_block
from svit_det.vit.flops import count_macs, trunk_macs
from svit_det.vit.layers import Block

SHAPE = TrunkShape(24, 2, 3)
CENTRE = 5 * log(0.6 / 0.4)
"""2.03, the logit at which training keeps a token as likely as not."""
INF = float("inf")
SUBSETS = [each for number in (1, 2, 3) for each in combinations(DECISIONS, number)]


def adavit(depth=2, **options):
    return AdaViT(config=AdaViT.Config(**options), shape=replace(SHAPE, depth=depth)).eval()


def read_channels(policy):
    """Let each decision's logits be the first channels of what it looks at."""
    with torch.no_grad():
        for parameter in policy.decisions.parameters():
            parameter.zero_()
        for each in policy.decisions.values():
            for linear in each.linears.values():
                linear.weight.copy_(torch.eye(24)[: len(linear.weight)])
    return policy


@pytest.fixture
def no_noise(monkeypatch):
    """Training draws the more probable: the noise is 0."""
    monkeypatch.setattr(decision, "logistic_noise", torch.zeros_like)


def tokens_of(state, patches, class_token=()):
    """The state with the first channels of its tokens typed out."""
    tokens = state.tokens.clone()
    tokens[:, state.num_extra :, 0] = torch.tensor(patches)
    if state.num_extra:
        tokens[:, 0, : len(class_token)] = torch.tensor(class_token)
    return replace(state, tokens=tokens)


# ------------------------------------------------------------------ deciding


@pytest.mark.usefixtures("no_noise")
def test_training_keeps_a_token_above_six_tenths_under_the_temperature(a_view, a_state):
    """sigmoid(logit / 5) > .6, which is logit > 5 log 1.5."""
    policy = read_channels(adavit(decide=("tokens",))).train()
    state = tokens_of(a_state(), [2.1, 2.0, 0.5, -3.0])
    _, selection = policy.before_block(a_view(), state)
    assert selection.keep.tolist() == [[True, False, False, False]]
    assert selection.gate.tolist() == [[1, 0, 0, 0]]
    assert_close(selection.score, torch.tensor([[2.1, 2.0, 0.5, -3.0]]) - CENTRE)
    (slope,) = torch.autograd.grad(
        selection.gate[0, 0], policy.decisions["tokens"].linears["0"].bias
    )
    soft = 1 / (1 + torch.tensor(-2.1 / 5).exp())
    assert slope.item() == pytest.approx((soft * (1 - soft) / 5).item())


def test_noise_is_drawn_in_training_alone(a_view, a_state, monkeypatch):
    policy = read_channels(adavit(decide=("tokens",)))
    state = tokens_of(a_state(), [2.1, 2.0, 2.0, -3.0])
    monkeypatch.setattr(
        decision, "logistic_noise", lambda like: torch.tensor([[-1.0, 1.0, 0.0, 5.1]])
    )
    assert policy.train().before_block(a_view(), state)[1].gate.tolist() == [[0, 1, 0, 1]]
    monkeypatch.setattr(decision, "logistic_noise", None)
    assert policy.eval().before_block(a_view(), state)[1].keep.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "kept"), [("threshold", [1, 0, 0, 0]), ("released", [1, 1, 1, 0])]
)
def test_the_released_threshold_is_another_than_that_of_training(a_view, a_state, mode, kept):
    """sigmoid(logit) > .6 without the temperature is logit > log 1.5 = .405."""
    policy = read_channels(adavit(mode=mode))
    state = tokens_of(a_state(num_extra=1), [2.1, 2.0, 0.41, 0.40])
    assert policy.before_block(a_view(), state)[1].keep.int().tolist() == [kept]


def test_tokens_are_seen_through_the_norm_and_the_class_token_is_not(a_view, a_state):
    policy = read_channels(adavit(depth=1, keep_first=0, mode="released"))
    view = a_view()
    view.normed = lambda state: -state.patches
    state = tokens_of(a_state(num_extra=1), [1.0, -1.0, 1.0, -1.0], [0.1, -0.1, 0.1])
    _, selection = policy.before_block(view, state)
    assert selection.keep.int().tolist() == [[0, 1, 0, 1]]
    assert selection.parts.heads.int().tolist() == [[1, 0, 1]]
    assert selection.parts.attend.tolist() == [True] and selection.parts.feed.tolist() == [False]


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("mode", MODES)
def test_heads_and_sub_layers_are_decided_at_one_half(a_view, a_state, training, mode):
    policy = read_channels(adavit(mode=mode)).train(training)
    state = tokens_of(a_state(num_extra=1), [0.0] * 4, [-0.01, 0.01, 0.0])
    _, selection = policy.before_block(a_view(1), state)
    parts = selection.parts
    assert parts.heads.tolist() == [[0, 1, 0]]
    assert (parts.attend.tolist(), parts.feed.tolist()) == ([0], [1])
    assert parts.heads.is_floating_point() == training == (selection.gate is not None)


def test_the_first_blocks_decide_about_tokens_alone(a_view, a_state):
    policy = adavit(depth=5, layers=(1, 2, 4), keep_first=2)
    found = {}
    for layer in range(5):
        _, selection = policy.before_block(a_view(layer), a_state(num_extra=1))
        found[layer] = (selection.score is not None, selection.parts is not None)
    assert found == {
        **{0: (False, False), 1: (True, False), 2: (True, True)},
        **{3: (False, False), 4: (True, True)},
    }
    assert policy.before_block(a_view(3), a_state(num_extra=1))[1].total == 5


def test_a_decision_costs_one_product_a_choice(a_view, a_state):
    policy, state = adavit(), a_state(num_extra=1)
    assert policy.before_block(a_view(0), state)[1].macs == 4 * 24
    assert policy.before_block(a_view(1), state)[1].macs == 4 * 24 + (3 + 2) * 24


def test_no_candidate_is_chosen(a_view, a_state):
    policy = read_channels(adavit(decide=("tokens",)))
    candidates = torch.tensor([[True, False, True, False]])
    state = tokens_of(a_state(), [9.0, 9.0, 0.0, 0.0])
    for training in (False, True):
        view = a_view(candidates=candidates)
        _, selection = policy.train(training).before_block(view, state)
        assert not selection.keep[~candidates].any()
        assert selection.score[0].isinf().tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("targets", "biases"),
    [
        ({}, (CENTRE, 0.0, 0.0)),
        (
            {"token_target": 0.75, "head_target": 0.9, "layer_target": 1.0},
            (CENTRE + log(3), log(9), log(99)),
        ),
        ({"token_threshold": 0.5, "token_target": 0.2}, (-log(4), 0.0, 0.0)),
    ],
)
def test_a_new_decision_says_yes_as_often_as_its_target_asks(targets, biases):
    policy = adavit(**targets)
    for name, bias in zip(DECISIONS, biases, strict=True):
        for linear in policy.decisions[name].linears.values():
            assert linear.bias.tolist() == pytest.approx([bias] * len(linear.bias), abs=1e-6)
            assert not linear.weight.any()


# ------------------------------------------------------------------ the block's sums


@torch.no_grad()
@pytest.mark.parametrize("attend", [True, False])
def test_kept_only_attention_is_the_papers_masked_attention(tiny_trunk, images, scripted, attend):
    """Entry (i, j) of the scores is -inf unless both are kept or i = j; branches are multiplied."""
    keep = torch.tensor([[1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]]).bool()
    heads = torch.tensor([[True, False, True]])
    parts = BlockParts(torch.tensor([attend]), torch.tensor([True]), heads)
    trunk = tiny_trunk(scripted([Selection(keep=keep, parts=parts)]), depth=1, class_token=True)
    batch = images(1)
    rows, block = trunk.embed(batch).tokens[0], trunk.block(0)
    mask = torch.cat([torch.tensor([True]), keep[0]])
    qkv = block.attn.qkv(block.norm1(rows)).view(16, 3, 3, 8)
    query, key, value = (qkv * heads[0].view(1, 1, 3, 1)).unbind(1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / 8**0.5
    scores = scores.masked_fill(~(mask.outer(mask) | torch.eye(16).bool()), -INF)
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value)
    rows = rows + attend * mask.unsqueeze(1) * block.attn.proj(mixed.flatten(1))
    rows = rows + mask.unsqueeze(1) * block.mlp(block.norm2(rows))
    assert_close(trunk(batch).tokens[0], rows, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_block_that_keeps_no_token_runs_the_class_token(tiny_trunk, images):
    policy = adavit(depth=12)
    trunk = tiny_trunk(policy)
    for name, bias in (("tokens", -99.0), ("heads", 99.0), ("layers", 99.0)):
        for linear in policy.decisions[name].linears.values():
            linear.bias.fill_(bias)
    batch = images(2)
    start, state = trunk.embed(batch), trunk(batch)
    assert all(block.rows == ((1, 1),) * 3 for block in state.history)
    assert torch.equal(state.patches, start.patches)
    assert not torch.equal(state.extra, start.extra)


@torch.no_grad()
def test_multiply_adds_fall_with_the_heads_of_one_image(tiny_trunk, images, pass_of):
    policy = adavit(depth=12)
    trunk, batch = tiny_trunk(policy, spread=0.05), images(1, (5, 7))
    spent = []
    for few in (3, 2, 1, 0):
        for name in DECISIONS:
            for linear in policy.decisions[name].linears.values():
                linear.weight.zero_()
                linear.bias.fill_(99.0)
        for linear in policy.decisions["heads"].linears.values():
            linear.bias[few:] = -99.0
        states = []
        counted = count_macs(lambda states=states: states.append(trunk(batch)))
        spent.append(counted.total)
        assert trunk_macs(trunk, pass_of(trunk, states[0])).total.sum() == counted.total
        assert {block.heads for block in states[0].history[1:]} == {few}
    # Eleven blocks choose heads; each head costs a third of an attention over 36 rows.
    head = 11 * trunk.block(0).attn.macs(36, 36) // 3
    assert spent == [spent[0] - skipped * head for skipped in range(4)]


# ------------------------------------------------------------------ losses


def two_blocks(a_pass):
    """Tokens of two images in both blocks, heads and sub-layers in the second."""
    keep = torch.tensor([[[1.0, 1, 0, 0], [1, 0, 0, 0]], [[1.0, 1, 1, 1], [0, 0, 0, 0]]])
    attend, feed = torch.tensor([1.0, 0]), torch.tensor([1.0, 1])
    heads = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    gates = [each.requires_grad_() for each in (*keep, attend, feed, heads)]
    parts = BlockParts(attend=attend, feed=feed, heads=heads)
    record = a_pass(
        Selection(keep=keep[0].bool(), gate=gates[0]),
        Selection(keep=keep[1].bool(), gate=gates[1], parts=parts),
    )
    return record, gates


def test_the_losses_by_hand(a_pass, no_task):
    """Seven of 16 tokens; two of the three heads that count; three of four sub-layers."""
    record, gates = two_blocks(a_pass)
    losses = adavit().train().losses(record, no_task)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_tokens": pytest.approx(2 * (7 / 16 - 0.5) ** 2),
        "loss_heads": pytest.approx(2 * (2 / 3 - 0.5)),
        "loss_layers": pytest.approx(2 * (3 / 4 - 0.5)),
    }
    sum(losses.values()).backward()
    first, second, attend, feed, heads = (gate.grad for gate in gates)
    assert_close(first, torch.full((2, 4), 2 * 2 * (7 / 16 - 0.5) / 16))
    assert_close(second, first)
    assert_close(attend, torch.full((2,), 2 / 4))
    assert_close(feed, attend)
    # Heads of an attention that does not run are not held to anything.
    assert_close(heads, torch.tensor([[2 / 3] * 3, [0.0] * 3]))


def test_targets_and_weight(a_pass, no_task):
    record, _ = two_blocks(a_pass)
    policy = adavit(token_target=0.75, head_target=0.9, layer_target=0.95, usage_weight=3.0)
    losses = policy.train().losses(record, no_task)
    assert losses["loss_tokens"].item() == pytest.approx(3 * (7 / 16 - 0.75) ** 2)
    assert losses["loss_heads"].item() == pytest.approx(3 * (0.9 - 2 / 3))
    assert losses["loss_layers"].item() == pytest.approx(3 * 0.2)


def test_the_log_says_what_is_used(a_pass, no_task):
    record, _ = two_blocks(a_pass)
    found = adavit().train().metrics(record, no_task)
    assert found == {
        "tokens_used": pytest.approx(7 / 16),
        "heads_used": pytest.approx(2 / 3),
        "layers_used": pytest.approx(3 / 4),
    }
    assert not any(value.requires_grad for value in found.values())


def test_usage_is_a_mean_over_all_processes(a_pass):
    """Here of two, of which the other one keeps everything, in three attentions of three heads."""
    record, _ = two_blocks(a_pass)

    def mean(value):
        other = torch.tensor([9.0, 3.0]) if value.ndim else torch.ones(())
        return (value + other) / 2

    used = adavit().train().decisions.usage(record, mean)
    assert used["tokens"].item() == pytest.approx((7 / 16 + 1) / 2)
    assert used["heads"].item() == pytest.approx((2 + 9) / (3 + 9))
    assert used["layers"].item() == pytest.approx((3 / 4 + 1) / 2)
    task = TaskLosses({}, mean=mean)
    losses = adavit().train().losses(record, task)
    assert losses["loss_heads"].item() == pytest.approx(2 * (11 / 12 - 0.5))
    assert adavit().train().metrics(record, task)["heads_used"].item() == pytest.approx(11 / 12)


def test_no_attention_at_all_leaves_the_heads_finite(a_pass, no_task):
    record, gates = two_blocks(a_pass)
    with torch.no_grad():
        gates[2].zero_()
    losses = adavit().train().losses(record, no_task)
    assert losses["loss_heads"].item() == 1.0
    sum(losses.values()).backward()
    assert gates[4].grad.isfinite().all() and not gates[4].grad.any()


# ------------------------------------------------------------------ thresholds


def test_thresholds_come_from_the_margins_of_training(make_policy, tiny_trunk, images, pass_of):
    """Tokens by block; heads of attentions that ran, and sub-layers, of all blocks together."""
    trunk = tiny_trunk(make_policy("AdaViT")).train()
    record = pass_of(trunk, trunk(images(8, (5, 7))))
    trunk.policy.track(record)
    notes, parts = record.notes["AdaViT"], [block.selection.parts for block in record.blocks[1:]]
    assert len(notes.heads) == len(notes.layers) == 11
    budgets = {name: each.budget for name, each in trunk.policy.decisions.items()}
    assert_close(budgets["tokens"].kept_share, record.kept_shares())
    for block, threshold in zip(record.blocks, budgets["tokens"].thresholds, strict=True):
        above = (block.selection.score > threshold).sum()
        assert abs(above - block.selection.keep.sum()) <= 3
    runs = torch.stack([each.attend for each in parts]).bool()
    heads = torch.stack([each.heads for each in parts])[runs]
    assert_close(budgets["heads"].kept_share, heads.mean().view(1))
    above = (torch.stack(notes.heads)[runs] > budgets["heads"].thresholds).float().mean()
    assert above.item() == pytest.approx(heads.mean().item(), abs=0.02)
    layers = torch.stack([torch.stack([each.attend, each.feed], dim=-1) for each in parts])
    assert_close(budgets["layers"].kept_share, layers.mean().view(1))
    above = (torch.stack(notes.layers) > budgets["layers"].thresholds).float().mean()
    assert above.item() == pytest.approx(layers.mean().item(), abs=0.02)


@torch.no_grad()
def test_statistics_are_means_over_all_processes(make_policy, tiny_trunk, images, pass_of):
    """Here of two processes, of which the other one chooses all and sees the same margins."""
    found = []
    for mean in (lambda value: value, lambda value: (value + 1) / 2 if value.ndim == 1 else value):
        torch.manual_seed(0)
        trunk = tiny_trunk(make_policy("AdaViT")).train()
        trunk.policy.track(pass_of(trunk, trunk(images(4, (5, 7)))), mean)
        shares = [each.budget.kept_share for each in trunk.policy.decisions.values()]
        found.append(torch.cat(shares))
    assert_close(found[1], (found[0] + 1) / 2)


@torch.no_grad()
def test_inference_uses_what_training_used_and_the_released_thresholds_do_not(
    make_policy, tiny_trunk, images, pass_of
):
    trunk = tiny_trunk(make_policy("AdaViT"))
    batch, seen = images(8, (6, 7)), []
    for _ in range(30):
        record = pass_of(trunk, trunk.train()(batch))
        trunk.policy.track(record)
        seen.append(torch.stack([*trunk.policy.decisions.usage(record).values()]))
    trained = torch.stack(seen).mean(dim=0)

    def used(policy):
        trunk.policy = policy
        state = trunk.eval()(batch)
        margins = [block.selection for block in state.history]
        tokens = torch.stack([(each.score > -INF) & each.keep for each in margins])
        parts = [each.parts for each in margins[1:]]
        layers = torch.stack([torch.stack([each.attend, each.feed]) for each in parts]).float()
        runs = torch.stack([each.attend for each in parts])
        heads = torch.stack([each.heads for each in parts])[runs].float()
        some = torch.cat([torch.ones(1, 8), layers.amax(dim=1)]).bool()
        return torch.stack([tokens[some].float().mean(), heads.mean(), layers.mean()])

    assert_close(used(trunk.policy), trained, atol=0.08, rtol=0)
    released = make_policy("AdaViT", mode="released").eval()
    released.load_state_dict(trunk.policy.state_dict())
    assert used(released)[0] > trained[0] + 0.15


@pytest.mark.parametrize("ratio", [0.3, 0.8])
@torch.no_grad()
def test_the_knob_moves_tokens_alone(make_policy, tiny_trunk, images, pass_of, ratio):
    trunk = tiny_trunk(make_policy("AdaViT", layer_target=1.0))
    for linear in trunk.policy.decisions["layers"].linears.values():
        linear.bias.fill_(99.0)
    batch = images(4, (8, 8))
    for _ in range(25):
        trunk.policy.track(pass_of(trunk, trunk.train()(batch)))
    trunk.policy.decisions["layers"].budget.thresholds.fill_(0)
    before = trunk.policy.decisions["heads"].budget.thresholds.clone()
    trunk.policy.set_keep_ratio(ratio)
    shares = pass_of(trunk, trunk.eval()(batch)).kept_shares()
    assert shares.mean().item() == pytest.approx(ratio, abs=0.08)
    assert torch.equal(trunk.policy.decisions["heads"].budget.thresholds, before)


def test_a_budget_of_one_asks_no_token(tiny_trunk, images):
    trunk = tiny_trunk(adavit(depth=12, test_keep_ratio=1.0))
    for linear in trunk.policy.decisions["tokens"].linears.values():
        linear.register_forward_hook(lambda *_: pytest.fail("nobody was to ask"))
    with torch.no_grad():
        history = trunk(images(2)).history
    assert history[0].everyone
    assert all(block.selection.parts is not None for block in history[1:])


# ------------------------------------------------------------------ some decisions


@pytest.mark.parametrize("decide", SUBSETS, ids="+".join)
def test_any_of_the_three_can_be_left_out(decide, tiny_trunk, images, pass_of):
    policy = adavit(depth=12, decide=decide)
    assert [*policy.decisions] == [*decide]
    trunk = tiny_trunk(policy)
    assert (trunk.cls_token is None) == (decide == ("tokens",))
    batch = images(3, (5, 7))
    with torch.no_grad():
        states = []
        counted = count_macs(lambda: states.append(trunk(batch)))
        state = states[0]
        assert trunk_macs(trunk, pass_of(trunk, state)).total.sum() == counted.total
        alone = torch.cat([trunk(batch[image : image + 1]).tokens for image in range(3)])
        assert_close(state.tokens, alone, atol=1e-5, rtol=1e-5)
        trunk.execution = Execution(Masked())
        assert_close(state.tokens, trunk(batch).tokens, atol=1e-5, rtol=1e-5)
    kept = torch.stack([block.selection.keep for block in state.history])
    if "tokens" not in decide and "layers" not in decide:
        assert kept.all()
    trunk.execution = Execution()
    state = trunk.train()(batch)
    record = pass_of(trunk, state)
    losses = policy.losses(record, TaskLosses({}))
    assert [*losses] == [f"loss_{name}" for name in decide]
    (sum(losses.values()) + state.patches.square().mean()).backward()
    for name in decide:
        grads = [each.weight.grad for each in policy.decisions[name].linears.values()]
        assert sum(grad.abs().sum() for grad in grads) > 0
    policy.track(record)
    assert all(each.budget.num_batches_tracked == 1 for each in policy.decisions.values())
    assert (policy.schedule is None) == ("tokens" not in decide)


def test_tokens_alone_remember_nothing(tiny_trunk, images):
    assert tiny_trunk(adavit(depth=12, decide=("tokens",))).train()(images(2)).notes == {}


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decide": ()}, r"decide: \[\] decides nothing"),
        ({"decide": ("tokens", "words")}, "decide: no 'words'; choose one of tokens, heads"),
        ({"head_target": 0.3}, r"head_target: 0.3 of 3 heads .* at least 0.34"),
        ({"head_target": 0.0}, r"head_target: 0.0 must lie in \(0, 1\]"),
        ({"token_target": 1.5}, r"token_target: 1.5 must lie in \(0, 1\]"),
        ({"layer_target": float("nan")}, "layer_target: nan must lie in"),
        ({"token_threshold": 1.0}, "token_threshold: 1.0 must lie in"),
        ({"layers": (0, 2)}, r"layers: \[2\] not in the trunk, whose 2 blocks"),
        ({"layers": (1, 1)}, "layers: .* names a block twice"),
        ({"keep_ratios": (0.5,)}, "keep_ratios: 1 targets for 2 layers"),
        ({"keep_ratios": (0.5, 0.3), "token_target": 0.4}, "token_target: 0.4 .* unset one"),
        ({"keep_ratios": (0.5, 0.3), "decide": ("heads",)}, "keep_ratios: speaks of tokens"),
        ({"test_keep_ratio": 0.5, "decide": ("layers",)}, "test_keep_ratio: speaks of tokens"),
        ({"test_keep_ratio": 0.5, "mode": "released"}, "test_keep_ratio: works .* not in released"),
        ({"test_keep_ratio": 1.5}, "test_keep_ratio: 1.5 must lie in"),
        ({"keep_first": 2}, "keep_first: 2 leaves none of LAYERS"),
        ({"mode": "sample"}, "mode: no 'sample'"),
        ({"usage_weight": -1.0}, "usage_weight: -1.0 must lie in"),
    ],
    ids=str,
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(InputError, match=f"^{message}") as refused:
        adavit(**options)
    assert "\n" not in str(refused.value)


def test_the_knob_checks_too():
    with pytest.raises(InputError, match="test_keep_ratio: 2 must lie in"):
        adavit().set_keep_ratio(2)
    adavit(mode="released").set_keep_ratio(None)
    adavit(decide=("heads",)).set_keep_ratio(None)


def test_the_defaults_are_the_papers():
    policy = build_policy("AdaViT", shape=TrunkShape(24, 12, 3))
    assert policy.schedule.layers == tuple(range(12))
    assert policy.schedule.shares == (0.5,) * 12
    assert policy.part_layers == tuple(range(1, 12))
    assert {name: each.above for name, each in policy.decisions.items()} == {
        **{"tokens": 0.6, "heads": 0.5, "layers": 0.5}
    }
    assert [each.target for each in policy.decisions.values()] == [0.5] * 3
    assert (policy.usage_weight, policy.mode, decision.TAU) == (2.0, "threshold", 5.0)


def test_every_setting_reaches_the_policy():
    policy = adavit(
        depth=6,
        layers=(5, 2, 0),
        decide=["heads", "tokens"],
        token_target=0.7,
        head_target=0.8,
        keep_first=2,
        token_threshold=0.55,
        usage_weight=1.0,
        test_keep_ratio=0.25,
    )
    assert (policy.schedule.layers, policy.part_layers) == ((5, 2, 0), (2, 5))
    assert policy.train().schedule.shares == (0.7,) * 3
    assert sum(policy.eval().schedule.shares) / 3 == pytest.approx(0.25)
    assert [*policy.decisions] == ["tokens", "heads"]
    assert policy.decisions["tokens"].target == pytest.approx(0.7)
    assert policy.decisions["heads"].target == 0.8
    assert policy.decisions["tokens"].above == 0.55
    assert policy.keep_ratio == policy.decisions["tokens"].budget.keep_ratio == 0.25
    assert policy.usage_weight == 1.0


def test_keep_ratios_stand_in_for_the_target_with_their_mean():
    policy = adavit(depth=4, layers=(1, 3), keep_ratios=(0.8, 0.3))
    assert policy.decisions["tokens"].target == pytest.approx(0.55)
    assert policy.schedule.shares == (0.8, 0.3)


def test_the_order_of_layers_does_not_mix_up_thresholds(a_view, a_state):
    policy = read_channels(adavit(depth=4, layers=(3, 1), decide=("tokens",)))
    policy.decisions["tokens"].budget.thresholds.copy_(torch.tensor([0.0, 5.0]))
    state = tokens_of(a_state(), [3.0, 8.0, 0.0, 3.0])
    kept = [policy.before_block(a_view(layer), state)[1].keep.sum().item() for layer in (1, 3)]
    assert kept == [1, 3]


@pytest.mark.parametrize("decide", SUBSETS, ids="+".join)
def test_every_parameter_stays_in_the_graph_at_batch_one(decide, tiny_trunk, images, losses_of):
    """What training in several processes counts on, also where chance skips a sub-layer."""
    trunk = tiny_trunk(adavit(depth=12, decide=decide)).train()
    for _ in range(4):
        trunk.zero_grad()
        losses_of(trunk, trunk(images(1))).backward()
        assert [name for name, p in trunk.named_parameters() if p.grad is None] == []


def test_a_skipped_attention_learns_to_come_back(a_state):
    """With sub-layers alone decided, heads are no gates: the branch is computed all the same."""
    torch.manual_seed(0)
    block = Block(24, num_heads=3, mlp_ratio=2.0, drop_path_rate=0.0)
    attend = torch.zeros(1, requires_grad=True)
    parts = BlockParts(attend=attend, feed=torch.ones(1), heads=torch.ones(1, 3, dtype=torch.bool))
    state = a_state(4, 1)
    policy = Says(Selection(torch.ones(1, 4, dtype=torch.bool), gate=torch.ones(1, 4), parts=parts))
    after = run_block(block, policy, state, layer=0, last=True, execution=Execution())
    after.tokens[:, 1:].mul(torch.randn(1, 4, 24)).sum().backward()
    assert attend.grad.abs().item() > 1e-3


class Says(TokenPolicy):
    """Enters with one selection."""

    def __init__(self, selection):
        super().__init__()
        self.selection = selection

    def before_block(self, view, state):
        return state, self.selection
