"""IA-RED2 by hand, and its method by reward: log probabilities, rewards, the curriculum, a toy.

B images, N patch tokens, C channels.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TaskLosses, TrunkShape, gating, reinforcement
from svit_det.policies.ia_red2 import IARED2
from svit_det.policies.interpreter import Interpreter
from svit_det.policies.reinforcement import Kept, curriculum, reward
from svit_det.tokens import Selection, TokenGrid, TokenState
from svit_det.training.freezing import Freezing
from svit_det.vit import PlainViT, build_trunk
from svit_det.vit.flops import count_macs

REINFORCE = {"method": "reinforce"}


@pytest.fixture
def ia_red2_of():
    """Factory: a small IA-RED2 on four blocks of 24 channels, groups from blocks 0, 1 and 3."""

    def make(**options):
        settings = {"layers": (0, 1, 3), "keep_ratios": (0.8, 0.6, 0.5)} | options
        return IARED2(config=IARED2.Config(**settings), shape=TrunkShape(24, 4, 3))

    return make


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def with_identity(agent, bias=0.0):
    """Query and key are the normed tokens themselves, the key plus `bias`."""
    with torch.no_grad():
        for part in (agent.query, agent.key):
            part.weight.copy_(torch.eye(agent.query.in_features))
            part.bias.zero_()
        agent.key.bias.fill_(bias)


def line(*tokens):
    """One image with a class token, then the patch tokens of one line."""
    return TokenState(
        tokens=torch.tensor([tokens]),
        num_extra=1,
        grid=TokenGrid.of_tokens(1, len(tokens) - 1),
        class_token=True,
    )


# ------------------------------------------------------------------ the agent


def test_probabilities_by_hand():
    """Two heads of two channels; tokens of mean 0 and variance 1 pass the norm as they are."""
    agent = Interpreter(4, 2)
    with_identity(agent)
    tokens = [[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, -1.0, -1.0, 1.0]]
    found = agent(torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.tensor([tokens]))
    # Head 1 and 2 see q . k = 2 and 2; -2 and -2; 0 and 0, each over sqrt(2).
    expected = [sigmoid(math.sqrt(2)), sigmoid(-math.sqrt(2)), 0.5]
    assert_close(found, torch.tensor([expected]), atol=1e-5, rtol=0)


def test_the_mean_is_of_probabilities_not_of_scores():
    agent = Interpreter(4, 2)
    with_identity(agent)
    found = agent(torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.tensor([[[3.0, -1.0, -1.0, -1.0]]]))
    # (3, -1, -1, -1) is normed to (3, -1, -1, -1) / sqrt(3): q . k = 2 / sqrt(3) in both heads.
    assert found.item() == pytest.approx(sigmoid(math.sqrt(2 / 3)), abs=1e-5)
    with torch.no_grad():
        agent.key.bias[2:] = -4.0
    found = agent(torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.tensor([[[3.0, -1.0, -1.0, -1.0]]]))
    heads = sigmoid(math.sqrt(2 / 3)), sigmoid(math.sqrt(2 / 3) + 8 / math.sqrt(2))
    assert found.item() == pytest.approx(sum(heads) / 2, abs=1e-5)


def test_both_sides_are_normed():
    agent, class_token, patches = Interpreter(24, 6), torch.randn(1, 24), torch.randn(1, 5, 24)
    found = agent(3 * class_token + 2, 0.5 * patches - 1)
    assert_close(found, agent(class_token, patches), atol=1e-3, rtol=0)


def test_an_agent_costs_what_it_says():
    agent = Interpreter(24, 6)
    counted = count_macs(lambda: agent(torch.randn(1, 24), torch.randn(1, 7, 24)))
    assert agent.macs(7) == counted.total == 24 * 24 + 7 * (24 * 24 + 24)


@pytest.mark.parametrize("start", [0.5, 0.81, 0.3])
def test_probabilities_start_where_they_are_told(start):
    agent = Interpreter(192, 6, start=start)
    with torch.no_grad():
        found = [agent(torch.randn(4, 192), torch.randn(4, 100, 192)).mean() for _ in range(20)]
    assert torch.stack(found).mean().item() == pytest.approx(start, abs=0.03)
    assert Interpreter(192, 6).key.bias.eq(0).all()


# ------------------------------------------------------------------ decisions


@pytest.fixture
def four_tokens(ia_red2_of):
    """A policy whose agents copy, in mode `released`, and an image of four tokens.

    Tokens 0 and 3 are like the class token, 1 is its opposite, 2 has nothing to do with it.
    """
    policy = ia_red2_of(mode="released", agent_heads=1).eval()
    for agent in policy.agents.values():
        with_identity(agent)
    like, across = [1.0, -1.0] * 12, [1.0, 1.0, -1.0, -1.0] * 6
    opposite = [-value for value in like]
    return policy, line(like, like, opposite, across, like)


def test_what_is_like_the_class_token_stays(four_tokens, a_view):
    policy, state = four_tokens
    _, selection = policy.before_block(a_view(0), state)
    # Half and half is dropped, as in the tool: keep iff p > .5.
    assert selection.keep.tolist() == [[True, False, False, True]]
    assert selection.total is None and selection.gate is None
    score = math.log(0.02 + 0.96 * sigmoid(math.sqrt(24))) - math.log(
        0.98 - 0.96 * sigmoid(math.sqrt(24))
    )
    assert_close(selection.score, torch.tensor([[score, -score, 0.0, score]]), atol=1e-3, rtol=0)


def test_what_was_dropped_is_gone(four_tokens, a_view):
    policy, state = four_tokens
    state, _ = policy.before_block(a_view(0), state)
    with_identity(policy.agents["1"], bias=-1.0)
    turned = state.with_patches(-state.patches)
    after, second = policy.before_block(a_view(1), turned)
    assert second.keep.tolist() == [[False] * 4]  # tokens 1 and 2 would be kept now
    assert second.score[0, 1:3].tolist() == [-math.inf] * 2
    assert second.score[0, ::3].isfinite().all()
    # A block without a decision of its own goes on with what is left.
    _, between = policy.before_block(a_view(2), after)
    assert torch.equal(between.keep, second.keep) and between.macs == 0


def test_what_may_not_be_chosen_is_not(four_tokens, a_view):
    policy, state = four_tokens
    candidates = torch.tensor([[False, True, True, True]])
    for training in (False, True):
        policy.train(training)
        kept, selection = policy.before_block(a_view(0, candidates=candidates), state)
        assert not selection.keep[0, 0] and selection.score[0, 0] == -math.inf
        _, later = policy.before_block(a_view(1), kept)
        assert not later.keep[0, 0]


def test_gates_multiply(ia_red2_of, a_view, a_state, monkeypatch):
    """A draw that keeps all and one that keeps two: the second gate is the product."""
    draws = iter([torch.full((1, 4), 90.0), torch.tensor([[90.0, -90.0, 90.0, -90.0]])])
    monkeypatch.setattr(gating, "logistic_noise", lambda like: next(draws))
    policy = ia_red2_of().train()
    state, first = policy.before_block(a_view(0), a_state(4, 1))
    state, second = policy.before_block(a_view(1), state)
    _, between = policy.before_block(a_view(2), state)
    assert first.gate.tolist() == [[1.0] * 4]
    assert second.gate.tolist() == between.gate.tolist() == [[1.0, 0.0, 1.0, 0.0]]
    assert between.gate is second.gate  # every block of the group gets its gradient
    assert policy.recall(state).log_prob is None


def test_a_later_group_teaches_an_earlier_one(ia_red2_of, a_view, a_state):
    policy = ia_red2_of().train()
    state, _ = policy.before_block(a_view(0), a_state(40, 1))
    _, second = policy.before_block(a_view(1), state)
    assert 0 < second.keep.sum() < policy.recall(state).keep.sum() < 40
    second.gate.sum().backward()
    assert all(policy.agents[layer].key.weight.grad.any() for layer in ("0", "1"))


def test_the_ratio_loss_is_towards_the_shares(ia_red2_of, a_pass, no_task):
    policy = ia_red2_of(layers=(0, 2), keep_ratios=(0.75, 0.5), loss_weight=2.0)
    gate = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    gates = [torch.ones(2, 4), torch.ones(2, 4), gate, gate]
    record = a_pass(*(Selection(keep=each > 0, gate=each) for each in gates))
    # Kept 1 and .375 of .75 and .5: 2 * (.25^2 + .125^2) / 2.
    assert policy.losses(record, no_task)["loss_keep_ratio"].item() == pytest.approx(0.078125)


@pytest.mark.parametrize("ratio", [None, 0.4, 0.8])
def test_inference_spends_what_training_saw_or_the_knob(
    make_policy, tiny_trunk, images, pass_of, ratio
):
    trunk = tiny_trunk(make_policy("IARED2")).train()
    batch, trained = images(4, (8, 8)), []
    for _ in range(30):
        with torch.no_grad():
            record = pass_of(trunk, trunk(batch))
        trunk.policy.track(record)
        trained.append(record.kept_shares()[[0, 4, 8]])
    trunk.policy.set_keep_ratio(ratio)
    with torch.no_grad():
        spent = pass_of(trunk, trunk.eval()(batch)).kept_shares()[[0, 4, 8]]
    if ratio is None:
        assert_close(spent, torch.stack(trained).mean(dim=0), atol=0.05, rtol=0)
    else:
        assert spent.mean().item() == pytest.approx(ratio, abs=0.06)


def test_released_asks_for_more_than_a_half_whatever_was_tracked(four_tokens, a_view):
    policy, state = four_tokens
    policy.budget.thresholds.fill_(-9.0)
    assert policy.before_block(a_view(0), state)[1].keep.tolist() == [[True, False, False, True]]
    policy.mode = "threshold"
    assert policy.before_block(a_view(0), state)[1].keep.all()


def test_a_budget_of_one_needs_no_looking(four_tokens, a_view, monkeypatch):
    policy, state = four_tokens
    policy.mode = "threshold"
    policy.set_keep_ratio(1.0)
    monkeypatch.setattr(Interpreter, "forward", lambda *_: pytest.fail("an agent was asked"))
    for layer in range(4):
        state, selection = policy.before_block(a_view(layer), state)
        assert selection.total == 5


# ------------------------------------------------------------------ by reward


@pytest.mark.parametrize(
    ("step", "steps", "groups", "expected"),
    [
        # Nine steps, three parts of three: one for the agent, two for the trunk.
        *zip(range(9), [9] * 9, [3] * 9, [(g, i == 0) for g in range(3) for i in range(3)]),
        # Ten steps, two parts of five: steps 0 and 1 begin before a third of five is over.
        *zip(range(10), [10] * 10, [2] * 10, [(g, i < 2) for g in range(2) for i in range(5)]),
        (0, 1, 1, (0, True)),
        (99, 9, 3, (2, False)),  # past the end
        (1, 2, 3, (1, False)),  # fewer steps than groups: 1.5 parts are over
    ],
)
def test_the_curriculum(step, steps, groups, expected):
    assert curriculum(step, steps, groups) == expected


@pytest.mark.parametrize(
    ("step", "active", "draws", "frozen_agents"),
    [
        (0, 1, True, {1, 3}),
        (1, 1, False, {0, 1, 3}),
        (3, 2, True, {0, 3}),
        (8, 3, False, {0, 1, 3}),
    ],
)
def test_who_learns_when(ia_red2_of, step, active, draws, frozen_agents):
    policy = ia_red2_of(**REINFORCE)
    trunk = build_trunk(
        policy=policy, patch_size=4, embed_dim=24, depth=4, num_heads=3, pretrain_grid=(3, 5)
    )
    net = PlainViT(trunk=trunk)
    freezing = Freezing(net, lambda at: policy.frozen(at, 9))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    freezing.clear_gradients(step)
    still = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    agents = {int(name.split(".")[3]) for name in still if ".agents." in name}
    assert agents == frozen_agents
    assert {name.split(".")[1] for name in still} - {"policy"} == (
        {"blocks", "patch_embed", "pos_embed", "cls_token"} if draws else set()
    )
    policy.set_step(step, 9)
    assert (policy.num_active.item(), policy.needs_greedy_pass) == (active, draws)


def test_by_gradient_nothing_stands_still(ia_red2_of):
    policy = ia_red2_of()
    policy.set_step(0, 9)
    assert policy.frozen(0, 9) == () and policy.num_active == 3
    assert not policy.needs_greedy_pass
    assert ia_red2_of(**REINFORCE).frozen(0) == ()


def test_groups_whose_part_is_yet_to_come_change_nothing(ia_red2_of, a_view, a_state):
    policy = ia_red2_of(keep_ratios=(0.5, 0.25, 0.125), **REINFORCE).eval()
    policy.set_step(3, 9)  # the second part of three
    state = a_state(40, 1)
    keeps = []
    for layer in range(4):
        state, selection = policy.before_block(a_view(layer), state)
        keeps.append(selection.keep)
    assert 0 < keeps[1].sum() < keeps[0].sum() < 40
    assert keeps[3] is keeps[2] is keeps[1]
    policy.set_step(8, 9)
    _, last = policy.before_block(a_view(3), state)
    assert last.keep.sum() < keeps[2].sum()


def test_how_many_groups_decide_is_saved(ia_red2_of, a_view, a_state):
    halfway, again = ia_red2_of(**REINFORCE), ia_red2_of(**REINFORCE).eval()
    assert again.num_active == 3
    halfway.set_step(0, 9)
    again.load_state_dict(halfway.state_dict())
    _, selection = again.before_block(a_view(1), a_state(8, 1))
    assert selection.total == 9 and selection.score is None


def test_only_the_group_whose_part_it_is_draws(ia_red2_of, a_view, a_state, monkeypatch):
    asked = []

    def no_noise(like):
        asked.append(1)
        return torch.zeros_like(like)

    monkeypatch.setattr(reinforcement, "logistic_noise", no_noise)
    policy = ia_red2_of(**REINFORCE).train()
    for step, draws in ((0, 1), (1, 0), (3, 1), (4, 0), (None, 3)):
        asked.clear()
        policy.set_step(step or 0, None if step is None else 9)
        state = a_state(8, 1)
        for layer in range(4):
            state, selection = policy.before_block(a_view(layer), state)
            assert selection.gate is None  # rows are really dropped
        assert len(asked) == draws
        assert (policy.recall(state).log_prob is not None) == bool(draws)


def test_by_reward_the_usage_of_one_half_is_tracked(ia_red2_of, a_pass):
    """Not that of the draws; and not before every group decides."""
    policy = ia_red2_of(layers=(0, 1), keep_ratios=(0.8, 0.6), **REINFORCE)
    drawn = torch.tensor([[True, False, False, True]])
    first = Selection(keep=drawn, score=torch.tensor([[2.0, 1.0, 0.5, -1.0]]))
    policy.track(a_pass(first, Selection(keep=drawn)))
    assert policy.budget.num_batches_tracked == 0
    gone = -math.inf
    policy.track(
        a_pass(first, Selection(keep=drawn, score=torch.tensor([[1.0, gone, gone, -1.0]])))
    )
    assert policy.budget.kept_share.tolist() == [0.75, 0.5]


# ------------------------------------------------------------------ by reward: the loss


def fixed(policy, layer, chances):
    """The agent of this block finds these probabilities, whatever it sees."""
    chances = torch.tensor(chances)
    policy.agents[str(layer)].forward = lambda class_token, patches: chances


def test_the_log_probability_of_a_draw_by_hand(ia_red2_of, a_view, a_state, monkeypatch):
    policy = ia_red2_of(**REINFORCE).train()
    # .2 + .6 p: keep with .8, .5, .2 and .65.
    fixed(policy, 0, [[1.0, 0.5, 0.0, 0.75]])
    fixed(policy, 1, [[0.5, 0.5, 0.25, 1.0]])
    signs = iter([[9.0, -9.0, 9.0, -9.0], [9.0, 9.0, -9.0, 9.0]])
    monkeypatch.setattr(reinforcement, "logistic_noise", lambda like: torch.tensor([next(signs)]))
    state, first = policy.before_block(a_view(0), a_state(4, 1))
    assert first.keep.tolist() == [[True, False, True, False]]
    assert_close(first.score, torch.tensor([[4.0, 1.0, 0.25, 13 / 7]]).log(), atol=1e-5, rtol=0)
    once = math.log(0.8 * 0.5 * 0.2 * 0.35) / 4
    assert policy.recall(state).log_prob.item() == pytest.approx(once, abs=1e-5)
    # Of the second group's draws those of the tokens 0 and 2 count, which are left.
    state, second = policy.before_block(a_view(1), state)
    assert second.keep.tolist() == [[True, False, False, False]]
    twice = once + math.log(0.5 * 0.65) / 2
    assert policy.recall(state).log_prob.item() == pytest.approx(twice, abs=1e-5)


def test_draws_are_as_frequent_as_they_say(ia_red2_of, a_view, a_state):
    policy = ia_red2_of(**REINFORCE).train()
    fixed(policy, 0, [[0.0, 0.5, 1.0] * 10_000])
    _, selection = policy.before_block(a_view(0), a_state(30_000, 1))
    shares = selection.keep.float().view(-1, 3).mean(dim=0)
    assert_close(shares, torch.tensor([0.2, 0.5, 0.8]), atol=0.02, rtol=0)


def test_an_image_without_tokens_has_no_draws(ia_red2_of, a_view, a_state):
    policy = ia_red2_of(**REINFORCE).train()
    none = torch.zeros(1, 4, dtype=torch.bool)
    state, _ = policy.before_block(a_view(0, candidates=none), a_state(4, 1))
    assert policy.recall(state).log_prob.tolist() == [0.0]


@pytest.fixture
def a_drawn_pass(a_pass):
    """Factory: the record of two blocks that kept so many of four tokens, and its notes."""

    def make(*counts, log_prob=None):
        keep = torch.arange(4) < torch.tensor(counts).unsqueeze(1)
        selection = Selection(keep=keep)
        notes = {"IARED2": Kept(keep, log_prob=log_prob)}
        return replace(a_pass(Selection(keep=torch.ones_like(keep)), selection), notes=notes)

    return make


def test_the_reward_and_its_advantage_by_hand(ia_red2_of, a_drawn_pass):
    policy = ia_red2_of(layers=(1,), keep_ratios=(0.5,), reward_weight=2.0, **REINFORCE)
    log_prob = torch.tensor([-0.5, -0.25], requires_grad=True)
    # The first block keeps all: of two images (4 + 2) / 8 and (4 + 0) / 8 are kept.
    record = a_drawn_pass(2, 0, log_prob=log_prob)
    greedy = TaskLosses(
        {"loss_a": torch.tensor(0.5), "loss_b": torch.tensor(0.25)}, record=a_drawn_pass(4, 4)
    )
    task = TaskLosses(
        {"loss_a": torch.tensor(0.75, requires_grad=True), "loss_b": torch.tensor(0.5)},
        greedy=greedy,
    )
    # 2 (1 - .75^2) - 1.25 and 2 (1 - .5^2) - 1.25; keeping all gets 0 - .75.
    assert reward(record, task, 2.0).tolist() == [-0.375, 0.25]
    assert policy.reinforcement.advantage(record, task).tolist() == [0.375, 1.0]
    losses = policy.losses(record, task)
    assert list(losses) == ["loss_interpreter"]
    assert losses["loss_interpreter"].item() == pytest.approx((0.375 * 0.5 + 1.0 * 0.25) / 2)
    losses["loss_interpreter"].backward()
    assert log_prob.grad.tolist() == [-0.1875, -0.5]
    assert task.named["loss_a"].grad is None
    found = policy.metrics(record, task)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            **{"groups": 1, "advantage": 0.6875, "reward": -0.0625, "reward_greedy": -0.75},
            **{"kept_group_0": 0.25, "kept_greedy_group_0": 1.0},
        }
    )
    # Where the task can tell images apart, so does the reward.
    told = replace(
        task,
        per_image=torch.tensor([1.0, 2.0]),
        greedy=replace(greedy, per_image=torch.tensor([0.5, 2.5])),
    )
    assert policy.reinforcement.advantage(record, told).tolist() == [0.375, 2.0]


def test_without_a_second_pass_it_says_so(ia_red2_of, a_drawn_pass):
    policy = ia_red2_of(layers=(1,), keep_ratios=(0.5,), **REINFORCE)
    record = a_drawn_pass(2, 0, log_prob=torch.zeros(2))
    with pytest.raises(InputError, match=r"method: IARED2 learns by reward over a second pass"):
        policy.losses(record, TaskLosses({"loss": torch.tensor(1.0)}))
    alone = a_drawn_pass(2, 0)  # while the trunk learns there are no draws, and no second pass
    assert policy.losses(alone, TaskLosses({}))["loss_interpreter"] == 0


@pytest.mark.parametrize("step", [0, 1, 8])
def test_every_agent_stays_in_the_graph(make_policy, tiny_trunk, images, pass_of, step):
    trunk = tiny_trunk(make_policy("IARED2", **REINFORCE)).train()
    trunk.policy.set_step(step, 9)
    state = trunk(images(2, (5, 7)))
    record, one = pass_of(trunk, state), torch.tensor(1.0)
    task = TaskLosses({"loss": one}, greedy=TaskLosses({"loss": 2 * one}, record=record))
    sum(trunk.policy.losses(record, task).values()).backward()
    grads = {name: p.grad for name, p in trunk.named_parameters()}
    moved = {name.split(".")[2] for name, grad in grads.items() if grad is not None and grad.any()}
    assert moved == ({"0"} if step == 0 else set())
    # The reward is the agents' own affair: nothing reaches the trunk.
    assert {name for name, grad in grads.items() if grad is not None} == {
        name for name in grads if name.startswith("policy.agents.")
    }


def test_rewards_move_the_probabilities_the_right_way(ia_red2_of, a_view, a_state, a_pass):
    """Dropping a token of the first four costs .5; each token that runs costs through K / N."""
    policy = ia_red2_of(layers=(0,), keep_ratios=(0.5,), **REINFORCE)
    start, worth = a_state(8, 1), torch.tensor([0.5] * 4 + [0.0] * 4)

    def one_pass():
        state, selection = policy.before_block(a_view(0), start)
        record = replace(a_pass(selection), notes=state.notes)
        return record, {"loss": (worth * ~selection.keep[0]).sum()}

    def chances():
        with torch.no_grad():
            return policy.agents["0"](start.tokens[:, 0], start.patches)[0]

    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    before, rewards = chances(), []
    for _ in range(300):
        record, named = one_pass()
        policy.eval()
        with torch.no_grad():
            done, said = one_pass()
        policy.train()
        task = TaskLosses(named, greedy=TaskLosses(said, record=done))
        rewards.append(policy.metrics(record, task)["reward_greedy"].item())
        optimizer.zero_grad()
        policy.losses(record, task)["loss_interpreter"].backward()
        optimizer.step()
    after = chances()
    assert (after[:4] > before[:4] + 0.1).all() and (after[4:] < before[4:] - 0.1).all()
    assert (after[:4] > 0.5).all() and (after[4:] < 0.5).all()
    # The best there is: the four that matter, and 1 - .5^2 for it.
    assert rewards[-1] == 0.75 and max(rewards) == 0.75 and rewards[0] < 0.5


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent_heads": 5}, "agent_heads: 5 does not divide the trunk's 24 channels"),
        ({"agent_heads": 0}, "agent_heads: 0 must lie in"),
        ({"method": "gumbel"}, "method: no 'gumbel'; choose one of straight_through, reinforce"),
        ({"mode": "released", "test_keep_ratio": 0.5}, "test_keep_ratio: works .* not in released"),
        ({"keep_ratios": (0.5, 0.6, 0.7)}, "keep_ratios: .* but IARED2 cannot reactivate"),
        ({"layers": (3, 1, 0)}, "layers: .* must ascend for IARED2"),
    ],
    ids=str,
)
def test_bad_settings_are_named(ia_red2_of, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ia_red2_of(**options)


def test_agents_start_near_their_share_of_what_is_left(make_policy, a_view):
    policy = make_policy("IARED2", keep_ratios=(1.0, 0.75, 0.45))
    starts = {}
    for layer, agent in policy.agents.items():
        score = (agent.query.bias[:4] * agent.key.bias[:4]).sum().item() / 2
        starts[layer] = sigmoid(score)
    assert starts == pytest.approx({"0": 0.95, "4": 0.75, "8": 0.6})


def test_settings_reach_the_policy(make_policy):
    policy = make_policy("IARED2")
    assert (policy.schedule.layers, policy.schedule.shares) == ((0, 4, 8), (0.81, 0.656, 0.531))
    assert (policy.loss_weight, policy.mode, policy.reinforcement) == (4.0, "threshold", None)
    assert policy.rate_factors() == {}
    assert make_policy("IARED2", agent_rate=3.0).rate_factors() == {"trunk.policy": 3.0}
