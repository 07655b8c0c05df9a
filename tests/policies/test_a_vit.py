"""A-ViT: halting by hand, against the masked original, its losses, and the weight that follows."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.adapter import ViTAdapter
from svit_det.errors import InputError
from svit_det.policies import TaskLosses, TrunkShape
from svit_det.policies.a_vit import AViT
from svit_det.policies.halting import prior_loss, prior_target
from svit_det.policies.ponder import DAMPING
from svit_det.policies.wrappers import Monotone
from svit_det.tokens import Selection
from svit_det.vit import Execution, Masked, Packed, Padded, PlainViT

WIDTH = 24
SETTINGS = {"gamma": 3.0, "beta": 3.0}  # under which the fixture's tokens halt in every block


def a_vit(depth=12, **config):
    return AViT(config=AViT.Config(**config), shape=TrunkShape(WIDTH, depth, 3))


# ------------------------------------------------------------------ deciding by hand


def test_the_first_channel_says_who_halts(a_state, a_view, a_record):
    """sigmoid(10 x - 30) of x = 2.9, 3, 3.5, 4: .269, .5, .993 and 1."""
    policy, state = a_vit(), a_state(4)
    _, selection = policy.before_block(a_view(), state)
    assert selection.total == 4
    state.tokens[0, :, 0] = torch.tensor([2.9, 3.0, 3.5, 4.0])
    after = policy.after_block(a_view(), state, state, a_record(selection))
    notes = policy.recall(after)
    assert_close(notes.accumulated, torch.tensor([[1 / (1 + math.e), 0.5, 1, 1]]))
    assert_close(notes.scores[0].item(), (0.26894 + 0.5 + 0.99331 + 0.99995) / 4, atol=1e-5, rtol=0)
    _, selection = policy.before_block(a_view(1), after)
    assert selection.keep.tolist() == [[True, True, False, False]]
    assert selection.gate is None and selection.total is None
    # The score is the weight that is left: where there is no room, the least halted run.
    assert_close(selection.score, torch.tensor([[0.73106, 0.5, 0, 0]]), atol=1e-5, rtol=0)
    _, selection = policy.before_block(
        a_view(1, candidates=torch.tensor([[0, 1, 1, 0]]) > 0), after
    )
    assert selection.keep.tolist() == [[False, True, False, False]]


def test_only_what_really_ran_is_asked(a_state, a_view, a_record):
    policy, state = a_vit(gamma=1.0, beta=0.0), a_state(3)
    state.tokens[0, :, 0] = 0
    ran = a_record(Selection(keep=torch.tensor([[True, False, True]])))
    notes = policy.recall(policy.after_block(a_view(), state, state, ran))
    assert notes.accumulated.tolist() == [[0.5, 0, 0.5]] and notes.ponder.tolist() == [[1, 0, 1]]
    assert notes.alive.all()
    notes = policy.recall(policy.after_block(a_view(last=True), state, state, ran))
    assert notes.accumulated.tolist() == [[1, 1, 1]] and notes.ponder.tolist() == [[2, 1, 2]]
    assert_close(notes.mixture, state.patches)


# ------------------------------------------------------------------ in the trunk


def literal(trunk, tokens, gamma, beta):
    """The masked original, written down once more: every token computed, halted ones as zeros.

    (B, N, C) -> its output, rho, and (L, B, N) the alive tokens of each block.
    """
    mask = torch.ones(tokens.shape[:2])
    spent, rho, left = torch.zeros_like(mask), torch.zeros_like(mask), torch.ones_like(mask)
    out, x, trail = torch.zeros_like(tokens), tokens, []
    for layer, block in enumerate(trunk.blocks):
        trail.append(mask.bool())
        m = mask.unsqueeze(-1)
        x = x * m
        heads = block.attn.num_heads
        query, key, value = (
            block.attn.qkv(block.norm1(x * m) * m).unflatten(-1, (3, heads, -1)).unbind(2)
        )
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        logits = logits - 1000 * (1 - mask)[:, None, None, :]
        mixed = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(dim=-1), value).flatten(2)
        x = x + block.attn.proj(mixed)
        x = x + block.mlp(block.norm2(x * m) * m)
        h = torch.sigmoid(gamma * x[..., 0] - beta)
        if layer == len(trunk.blocks) - 1:
            h = torch.ones_like(h)
        states = x * m
        spent, rho = spent + h, rho + mask
        done = (spent > 0.99) * mask
        more = (spent < 0.99).float()
        out = out + states * (left * done).unsqueeze(-1) + states * (h * more).unsqueeze(-1)
        rho = rho + left * done
        left = left - h * more
        mask = more
    return out, rho, torch.stack(trail)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_removing_is_masking(tiny_trunk, images, seed, training):
    torch.manual_seed(seed)
    policy = a_vit(**SETTINGS)
    trunk, batch = tiny_trunk(policy).train(training), images(3, (5, 7))
    with torch.no_grad():
        out, rho, alive = literal(trunk, trunk.embed(batch).tokens, **SETTINGS)
        state = trunk(batch)
    keeps = torch.stack([record.selection.keep for record in state.history])
    assert torch.equal(keeps, alive)
    shares = keeps.float().mean(dim=(1, 2))
    assert 0 < shares[-1] < shares[6] < shares[1] < 1
    assert_close(trunk.read_map(state), out, atol=1e-4, rtol=1e-4)
    assert_close(policy.recall(state).ponder, rho, atol=1e-4, rtol=1e-4)
    # Rows, not masks: a halted token costs nothing, in training either.
    for record in state.history:
        assert record.rows.mlp == tuple(record.selection.keep.sum(dim=1).tolist())


@pytest.mark.parametrize("output", ["mixture", "last"])
@pytest.mark.parametrize("wrap", [lambda policy: policy, Monotone], ids=["bare", "Monotone"])
def test_every_executor_comes_to_the_same_map(
    tiny_trunk, images, forced, replay, same_outcome, wrap, output
):
    policy = wrap(a_vit(**SETTINGS, output=output))
    trunk, batch = tiny_trunk(policy), images(3, (5, 7))
    with torch.no_grad():
        packed = trunk(batch)
        history, expected = packed.history, trunk.read_map(packed)
        assert 0 < history[-1].selection.keep.sum() < 60
        trunk.policy = forced(policy, replay(history, gated=True))
        masked = trunk(batch)
        assert all(record.selection.gate is not None for record in masked.history)
        same_outcome(masked, packed)
        assert_close(trunk.read_map(masked), expected, atol=1e-5, rtol=1e-5)
        trunk.policy = policy
        most = [max(record.rows.mlp) for record in history]
        for hard in (Packed(), Masked(), Padded(1.0), Padded(most)):
            trunk.execution = Execution(hard=hard)
            state = trunk(batch)
            same_outcome(state, packed)
            assert_close(trunk.read_map(state), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hard", [Padded(0.3), Padded(8)], ids=repr)
def test_without_room_for_all_the_least_halted_run(tiny_trunk, images, hard):
    policy = a_vit(**SETTINGS)
    trunk = tiny_trunk(policy, execution=Execution(hard=hard))
    with torch.no_grad():
        state = trunk.run(trunk.embed(images(2, (5, 7))), 0, 1)
        for layer in range(1, 12):
            before = policy.recall(state)
            state = trunk.run(state, layer, layer + 1)
            keep, waits = state.history[-1].selection.keep, before.alive.clone()
            waits &= ~keep
            assert not (keep & ~before.alive).any()
            for image in range(2):
                if waits[image].any() and keep[image].any():
                    left = before.remainder[image]
                    assert left[keep[image]].min() >= left[waits[image]].max()
            # What waits is as it was.
            after = policy.recall(state)
            assert torch.equal(after.accumulated[waits], before.accumulated[waits]) or layer == 11
    notes = policy.recall(state)
    assert not notes.alive.any() and (notes.accumulated == 1).all()


@pytest.mark.parametrize("rate", [1.0, 0.7, 0.0], ids="keeps {}".format)
def test_the_weights_of_every_token_sum_to_one(tiny_trunk, images, forced, rate):
    """Of a channel that is 1 in every state the mixture is the sum of the weights."""

    def change(layer, stage, selection):
        kept = torch.rand(selection.keep.shape) < rate
        return replace(selection, keep=selection.keep & kept, total=None)

    policy = a_vit(**SETTINGS)
    trunk = tiny_trunk(forced(policy, change))
    with torch.no_grad():
        for block in trunk.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight[5], layer.bias[5] = 0, 0
        state = trunk.embed(images(2, (5, 7)))
        state.tokens[..., 5] = 1
        state = trunk.run(state, 0, 12)
    assert torch.equal(state.patches[..., 5], torch.ones(2, 35))
    assert_close(trunk.read_map(state)[..., 5], torch.ones(2, 35))
    assert (policy.recall(state).accumulated == 1).all()


def test_tokens_that_have_halted_stay_so(tiny_trunk, images):
    policy = a_vit(**SETTINGS)
    trunk = tiny_trunk(policy)
    with torch.no_grad():
        state, final = trunk.embed(images(2, (5, 7))), {}
        for layer in range(12):
            state = trunk.run(state, layer, layer + 1)
            notes = policy.recall(state)
            for name in ("ponder", "mixture", "accumulated"):
                value = getattr(notes, name)
                if name in final:
                    halted, then = final[name]
                    assert torch.equal(value[halted], then[halted])
                final[name] = (~notes.alive, value)


# ------------------------------------------------------------------ the map


def test_the_map_shows_states_until_the_last_block_has_run(tiny_trunk, images):
    trunk = tiny_trunk(a_vit(**SETTINGS))
    with torch.no_grad():
        state = trunk.embed(images(2))
        for layer in range(12):
            assert torch.equal(trunk.read_map(state), state.patches)
            state = trunk.run(state, layer, layer + 1)
        assert not torch.equal(trunk.read_map(state), state.patches)
        notes = trunk.policy.recall(state)
        assert torch.equal(trunk.read_map(state), notes.mixture)


def test_the_map_of_last_states(tiny_trunk, images):
    batch = images(2)
    mixed, plain = (tiny_trunk(a_vit(**SETTINGS, output=each)) for each in ("mixture", "last"))
    plain.load_state_dict(mixed.state_dict())
    with torch.no_grad():
        one, two = mixed(batch), plain(batch)
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(plain.read_map(two), two.patches)
    assert plain.policy.recall(two).mixture is None
    assert torch.equal(mixed.policy.recall(one).ponder, plain.policy.recall(two).ponder)


@pytest.mark.parametrize("output", ["mixture", "last"])
def test_what_is_written_is_read(tiny_trunk, images, output):
    """In the middle into the states, which a mixture to come is made of; at the end, into it."""
    trunk = tiny_trunk(a_vit(**SETTINGS, output=output))
    with torch.no_grad():
        state = trunk.embed(images(2))
        for start, stop in ((0, 5), (5, 12)):
            state = trunk.run(state, start, stop)
            written = torch.randn_like(state.patches)
            state = trunk.write_map(state, written)
            assert torch.equal(trunk.read_map(state), written)


def test_what_an_adapter_adds_to_halted_tokens_is_no_part_of_their_mixture(tiny_trunk, images):
    policy = a_vit(**SETTINGS)
    trunk = tiny_trunk(policy)
    with torch.no_grad():
        state = trunk.run(trunk.embed(images(2, (5, 7))), 0, 6)
        halted = ~policy.recall(state).alive
        assert 0 < halted.sum() < 70
        injected = state.patches + torch.randn_like(state.patches)
        untouched = torch.where(halted.unsqueeze(-1), state.patches, injected)
        maps = []
        for each in (injected, untouched):
            after = trunk.run(trunk.write_map(state, each), 6, 12)
            maps.append(trunk.read_map(after))
            assert torch.equal(after.patches[halted], each[halted])
    assert torch.equal(*maps)
    assert torch.equal(maps[0][halted], policy.recall(state).mixture[halted])


def test_networks_put_out_the_mixture(tiny_trunk, images):
    batch = images(2, (4, 6))
    net = PlainViT(trunk=tiny_trunk(a_vit(**SETTINGS)))
    with torch.no_grad():
        maps, record = net(batch)
    assert torch.equal(maps["last_feat"].flatten(2).transpose(1, 2), record.tokens)
    assert torch.equal(record.tokens, record.notes["AViT"].mixture)
    trunk = tiny_trunk(a_vit(4, **SETTINGS), depth=4, patch_size=8)
    adapter = ViTAdapter(trunk=trunk, interactions=[[0, 1], [2, 3]], num_heads=3, stem_width=8)
    with torch.no_grad():
        _, record = adapter.eval()(images(2, (4, 6), 8))
    assert torch.equal(record.tokens, record.notes["AViT"].mixture)


# ------------------------------------------------------------------ gradients and losses


def test_every_parameter_learns_from_the_map_where_tokens_halt(
    tiny_trunk, images, pass_of, no_task
):
    trunk = tiny_trunk(a_vit(**SETTINGS)).train()
    state = trunk(images(4, (4, 5)))
    assert 0 < state.history[-1].selection.keep.sum() < 50
    record = pass_of(trunk, state)
    task = (record.tokens * torch.randn_like(record.tokens)).mean()
    (task + sum(trunk.policy.losses(record, no_task).values())).backward()
    without = [
        name
        for name, parameter in trunk.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_the_losses_by_hand(tiny_trunk, images, pass_of, no_task):
    policy = a_vit(**SETTINGS, ponder_weight=0.5, prior_weight=2.0)
    trunk = tiny_trunk(policy)
    record = pass_of(trunk, trunk(images(2, (5, 7))))
    notes, losses = record.notes["AViT"], policy.losses(record, no_task)
    blocks = record.counts().sum() / 70
    assert 1 < notes.ponder.mean() - blocks + 1 < 2  # a remainder of at most one each
    assert_close(losses["loss_ponder"], 0.5 * notes.ponder.mean())
    scores = torch.stack(notes.scores)
    assert_close(losses["loss_depth_prior"], 2 * prior_loss(scores, prior_target(12, 8)))
    assert set(losses) == {"loss_ponder", "loss_depth_prior"}


def test_the_default_centre_is_the_papers_block_8():
    assert_close(a_vit().prior, prior_target(12, 8))
    assert_close(a_vit(prior_centre=5).prior, prior_target(12, 5))
    assert_close(a_vit(4).prior, prior_target(4, 2))


def test_the_prior_is_that_of_all_processes(tiny_trunk, images, pass_of):
    policy = a_vit(**SETTINGS, prior_weight=2.0)
    trunk = tiny_trunk(policy)
    record = pass_of(trunk, trunk(images(2, (5, 7))))
    elsewhere = torch.linspace(0.1, 0.2, 12)
    losses = policy.losses(record, TaskLosses({}, mean=lambda value: (value + elsewhere) / 2))
    both = (torch.stack(record.notes["AViT"].scores) + elsewhere) / 2
    assert_close(losses["loss_depth_prior"], 2 * prior_loss(both, policy.prior))


def test_the_released_weights():
    config = AViT.Config()
    assert (config.gamma, config.beta) == (10, 30)
    assert (config.ponder_weight, config.prior_weight) == (5e-4, 1e-3)


# ------------------------------------------------------------------ the weight that follows


def of_depth(a_pass, depth, layers=10, tokens=100):
    """A pass whose tokens run through so many blocks in the mean, the first one whole."""
    share = (depth - 1) / (layers - 1)
    keep = torch.arange(tokens).unsqueeze(0) < round(share * tokens)
    return a_pass(*(Selection(keep=keep | (layer == 0)) for layer in range(layers)))


def test_the_weight_rises_while_the_depth_is_above_the_target_and_falls_below_it(a_pass, no_task):
    policy = a_vit(10, target_depth=0.5, target_rate=0.1)
    policy.track(of_depth(a_pass, 8.2))
    assert policy.ponder_weight.factor.item() == pytest.approx(math.exp(0.1 * 0.32))
    policy.track(of_depth(a_pass, 8.2))
    assert policy.ponder_weight.factor.item() == pytest.approx(math.exp(0.2 * 0.32))
    for _ in range(4):
        policy.track(of_depth(a_pass, 2.8))
    assert policy.ponder_weight.factor.item() == pytest.approx(math.exp(0.1 * (0.64 - 4 * 0.22)))
    # The step that has the excess feels it at once.
    numbers = policy.metrics(of_depth(a_pass, 8.2), no_task)
    assert numbers["mean_depth"].item() == pytest.approx(8.2)
    weight = 5e-4 * policy.ponder_weight.factor * math.exp(DAMPING * 0.32)
    assert_close(numbers["ponder_weight"], weight)


def test_the_loss_has_the_weight_that_the_log_shows(tiny_trunk, images, pass_of, no_task):
    policy = a_vit(**SETTINGS, target_depth=0.4)
    trunk = tiny_trunk(policy).train()
    record = pass_of(trunk, trunk(images(2, (5, 7))))
    policy.track(record)
    numbers = policy.metrics(record, no_task)
    rho = record.notes["AViT"].ponder.mean()
    assert_close(policy.losses(record, no_task)["loss_ponder"], numbers["ponder_weight"] * rho)
    assert not numbers["ponder_weight"].requires_grad


def test_without_a_target_the_weight_stays(a_pass, no_task):
    policy = a_vit(10)
    for depth in (2.8, 9.1):
        record = of_depth(a_pass, depth)
        policy.track(record)
        assert policy.ponder_weight.factor == 1
        assert policy.metrics(record, no_task)["ponder_weight"] == pytest.approx(5e-4)


def test_the_factor_is_bounded(a_pass):
    policy = a_vit(10, target_depth=0.5, target_rate=5.0)
    for depth, bound in ((9.1, 1e3), (2.8, 1e-3)):
        for _ in range(20):
            policy.track(of_depth(a_pass, depth))
        assert policy.ponder_weight.factor.item() == pytest.approx(bound)


def test_the_depth_is_that_of_all_processes(a_pass):
    policy = a_vit(10, target_depth=0.5, target_rate=0.1)
    policy.track(of_depth(a_pass, 8.2), lambda value: value - 0.2)
    assert policy.ponder_weight.factor.item() == pytest.approx(math.exp(0.1 * 0.12))


def test_the_factor_is_saved(a_pass):
    policy, fresh = (a_vit(10, target_depth=0.5) for _ in range(2))
    policy.track(of_depth(a_pass, 8.2))
    fresh.load_state_dict(policy.state_dict())
    assert fresh.ponder_weight.factor == policy.ponder_weight.factor != 1
    assert set(policy.state_dict()) == {"ponder_weight.factor"}


@pytest.mark.parametrize("start", [2.5, 9.5])
@pytest.mark.parametrize("enough", [0.002, 0.2], ids=["a light task", "a heavy task"])
def test_a_loop_settles_at_the_target(a_pass, no_task, start, enough):
    """A model that learns: each step makes it shallower by what the weight is above `enough`.

    It is the hard case, in which a depth once reached stays: steering by sums alone swings on.
    """
    passes = {tenths: of_depth(a_pass, tenths / 10) for tenths in range(10, 101)}
    policy, depth, trail = a_vit(10, target_depth=0.6, target_rate=0.05), start, []
    for _ in range(2000):
        record = passes[round(10 * depth)]
        weight = policy.metrics(record, no_task)["ponder_weight"].item()
        policy.track(record)
        pull = max(min((weight - enough) / enough, 1.0), -1.0)
        depth = min(max(depth - 0.05 * pull, 1.5), 10.0)
        trail.append(depth)
    assert all(5.8 < each < 6.2 for each in trail[-200:])


# ------------------------------------------------------------------ warnings and refusals


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"beta": 1e3},
            "hardly a token halted (mean depth 12.00 of 12 blocks). If that lasts, lower",
        ),
        ({"beta": -1e3}, "most tokens halted at once (mean depth 1.00 of 12 blocks)"),
    ],
    ids=["nothing", "everything"],
)
def test_halting_that_does_not_work_is_said_once(tiny_trunk, images, pass_of, caplog, config, said):
    policy = a_vit(**config)
    trunk = tiny_trunk(policy).train()
    record = pass_of(trunk, trunk(images(2)))
    with caplog.at_level(logging.WARNING):
        policy.track(record)
        policy.track(record)
    (warning,) = caplog.messages
    assert said in warning and "MODEL.TOKEN_POLICY.A_VIT.BETA" in warning


def test_halting_that_works_is_not_worth_a_word(tiny_trunk, images, pass_of, caplog):
    policy = a_vit(**SETTINGS)
    trunk = tiny_trunk(policy).train()
    policy.track(pass_of(trunk, trunk(images(2))))
    alone = a_vit(1)
    trunk = tiny_trunk(alone, depth=1).train()
    alone.track(pass_of(trunk, trunk(images(2))))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("depth", "config", "words"),
    [
        (4, {"prior_centre": 8}, "prior_centre: 8 lies outside the trunk, whose blocks .* 0 to 3"),
        (12, {"prior_centre": -1}, r"prior_centre: -1 must lie in \[0, 1000\]"),
        (12, {"target_depth": 0.0}, r"target_depth: 0.0 must lie in \(0, 1\]"),
        (12, {"target_depth": 0.5, "ponder_weight": 0.0}, "ponder_weight: 0 stays 0"),
        (12, {"gamma": 0.0}, r"gamma: 0.0 must lie in \(0, 1e6\]"),
        (12, {"beta": float("nan")}, "beta: nan must lie"),
        (12, {"output": "mean"}, "output: no 'mean'; choose one of mixture, last"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_a_sentence(depth, config, words):
    with pytest.raises(InputError, match=f"^{words}"):
        a_vit(depth, **config)


def test_there_is_no_budget_to_set():
    assert a_vit().schedule is None
    with pytest.raises(InputError, match="AViT has no budget to set"):
        a_vit().set_keep_ratio(0.5)


def test_a_target_that_no_token_can_reach_is_refused():
    with pytest.raises(InputError, match=r"target_depth: 0\.05 of 12 blocks is less than the one"):
        a_vit(target_depth=0.05)


def test_every_parameter_has_a_gradient_where_every_token_has_halted(tiny_trunk, images, losses_of):
    """What training in several processes counts on."""
    trunk = tiny_trunk(a_vit(gamma=1.0, beta=-3.0)).train()
    state = trunk(images(1))
    assert state.history[-1].rows.keys == (0,)
    losses_of(trunk, state).backward()
    assert [name for name, parameter in trunk.named_parameters() if parameter.grad is None] == []
