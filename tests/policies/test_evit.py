"""EViT: the choice and the fused token by hand, and what only EViT does."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.evit import EViT
from svit_det.tokens import ClassAttention, Selection

WIDTH = 24


def evit(depth=12, **config):
    return EViT(config=EViT.Config(**config), shape=TrunkShape(WIDTH, depth, 3))


def attention_of(patches, extra=()):
    """One image whose class token looks at its patches and fused tokens so; 0.1 at itself."""
    weights = torch.tensor([[list(patches)]])
    beside = torch.tensor([[[0.1, *extra]]])
    return ClassAttention(weights=weights.repeat(1, 3, 1), extra_weights=beside.repeat(1, 3, 1))


@pytest.fixture(params=[False, True], ids=["count unknown", "count known"])
def decide(request, a_view):
    """What block 3, or `layer`, makes of a state; the number of rows is known or not."""

    def after_attention(policy, state, attention, keep=None, *, gate=None, layer=3):
        keep = torch.ones(1, state.num_patches).bool() if keep is None else keep
        selection = Selection(keep=keep, gate=gate)
        if request.param:
            selection = replace(selection, total=int(selection.mask(state.presence()).sum()))
        view = a_view(layer, attention=attention, after=state)
        return policy.after_attention(view, state, selection)

    return after_attention


def looked(state):
    """The blocks in which the policy asked for the class token's attention."""
    return [layer for layer, record in enumerate(state.history) if record.looked]


def test_four_patches_by_hand(decide, a_state):
    """Attention .40 .10 .30 .05 at rate .7: ceil(2.8) = 3 stay, the last is fused with .05."""
    state = a_state(4, 1)
    after, chosen = decide(evit().eval(), state, attention_of([0.40, 0.10, 0.30, 0.05]))
    assert chosen.keep.tolist() == [[True, True, True, False]]
    assert_close(chosen.score, torch.tensor([[0.40, 0.10, 0.30, 0.05]]))
    assert after.extra.shape == (1, 2, WIDTH)
    assert torch.equal(after.extra[:, 0], state.extra[:, 0])
    assert_close(after.extra[0, 1], 0.05 * state.patches[0, 3])
    assert torch.equal(after.patches, state.patches)


def test_the_weights_of_the_fused_are_not_normalised(decide, a_state):
    state = a_state(6, 1)
    after, chosen = decide(evit().eval(), state, attention_of([0.3, 0.02, 0.2, 0.04, 0.1, 0.1]))
    assert chosen.keep.tolist() == [[True, False, True, True, True, True]]  # ceil(4.2) = 5
    state = a_state(10, 1)
    scores = [0.05, 0.2, 0.03, 0.1, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1]
    after, chosen = decide(evit().eval(), state, attention_of(scores))
    assert (~chosen.keep).nonzero()[:, 1].tolist() == [0, 2, 4]  # 7 stay
    by_hand = 0.05 * state.patches[0, 0] + 0.03 * state.patches[0, 2] + 0.01 * state.patches[0, 4]
    assert_close(after.extra[0, 1], by_hand)


@pytest.mark.parametrize(("look", "survives"), [(0.25, True), (0.01, False)])
def test_an_earlier_fused_token_competes_like_a_patch(decide, a_state, look, survives):
    state = a_state(4, num_extra=2, present=torch.tensor([[True, True]]))
    keep = torch.tensor([[True, True, False, True]])
    attention = attention_of([0.3, 0.1, 0.0, 0.2], extra=[look])
    after, chosen = decide(evit().eval(), state, attention, keep, layer=6)
    # Four in play: ceil(.7 x 4) = 3 stay.
    assert chosen.keep.tolist() == [[True, not survives, False, True]]
    assert after.present.tolist() == [[True, survives, True]]
    lost = 0.1 * state.patches[0, 1] if survives else look * state.extra[0, 1]
    assert_close(after.extra[0, 2], lost)


@pytest.mark.parametrize(("fuse", "totals"), [(True, [140, 100, 72]), (False, [139, 98, 69])])
def test_the_originals_counts_at_224(tiny_trunk, images, fuse, totals):
    """Class token, patches and fused tokens after each of the three blocks, from 197."""
    trunk = tiny_trunk(evit(fuse=fuse))
    with torch.no_grad():
        state = trunk(images(2, (14, 14)))
    rows = [state.history[layer].rows for layer in (3, 6, 9)]
    assert [each.mlp for each in rows] == [(total,) * 2 for total in totals]
    assert [each.keys for each in rows] == [(total,) * 2 for total in (197, *totals[:2])]


def test_the_count_is_that_of_4200_tokens_for_every_image():
    """2,940 and a fused one, then 2,059 and 1,442, fused ones among them, on the COCO grid."""
    present, in_play = 4200, []
    for rate in evit().eval().keep_rates():
        in_play.append(math.ceil(rate * present))
        present = in_play[-1] + 1
    assert in_play == [2940, 2059, 1442]


def test_in_the_trunk_the_choice_is_the_class_tokens_attention(tiny_trunk, images):
    trunk = tiny_trunk(evit(depth=2, layers=(1,), keep_ratios=(0.6,)), depth=2)
    with torch.no_grad():
        before = trunk.run(trunk.embed(images(2, (5, 6))), 0, 1)
        after = trunk.run(before, 1, 2)
        block = trunk.blocks[1]
        rows = before.tokens
        query, key, value = block.attn.qkv(block.norm1(rows)).unflatten(-1, (3, 3, 8)).unbind(2)
        weights = (torch.einsum("bqhd,bnhd->bhqn", query, key) / 8**0.5).softmax(dim=-1)
        mixed = torch.einsum("bhqn,bnhd->bqhd", weights, value).flatten(2)
        attended = rows + block.attn.proj(mixed)
        score = weights.mean(dim=1)[:, 0, 1:]
        keep = after.history[1].selection.keep
        for image in range(2):
            top = score[image].topk(18).indices
            assert set(keep[image].nonzero().flatten().tolist()) == set(top.tolist())
        # A dropped patch has the value from after the attention; the fused token is their sum.
        patches = attended[:, 1:]
        assert_close(after.patches[~keep], patches[~keep], atol=1e-5, rtol=1e-5)
        fused = ((score * ~keep).unsqueeze(-1) * patches).sum(dim=1)
        finished = fused + block.mlp(block.norm2(fused))
        assert_close(after.extra[:, 1], finished, atol=1e-5, rtol=1e-5)


def test_the_dropped_never_come_back(tiny_trunk, images):
    with torch.no_grad():
        history = tiny_trunk(evit())(images(3, (6, 7))).history
    for earlier, later in pairwise(record.selection.keep for record in history):
        assert not (later & ~earlier).any()
    assert history[2].everyone
    # Of 42 patches ceil(29.4), and the class token and the fused one, the same for every image.
    assert history[3].rows.mlp == (32, 32, 32)
    assert history[3].selection.keep.sum() == 3 * math.ceil(0.7 * 42)
    for record in history:
        assert record.rows.mlp == (record.selection.total,) * 3


def test_the_fused_tokens_weights_pass_gradients_and_the_choice_none(decide, a_state):
    state = a_state(4, 1)
    attention = attention_of([0.4, 0.1, 0.3, 0.05])
    weights = attention.weights.requires_grad_()
    after, _ = decide(evit(), state, replace(attention, weights=weights))
    after.extra[:, 1].sum().backward()
    assert weights.grad[0, 0, 3] != 0 and not weights.grad[0, :, :3].any()


def test_keeping_every_token_is_dense_and_asks_nothing(tiny_trunk, images, class_everyone):
    trunk, batch = tiny_trunk(evit(keep_ratios=(1.0, 1.0, 1.0))), images(2)
    dense = tiny_trunk(class_everyone())
    weights = {n: v for n, v in trunk.state_dict().items() if not n.startswith("policy.")}
    dense.load_state_dict(weights)
    with torch.no_grad():
        state = trunk(batch)
        assert torch.equal(state.patches, dense(batch).patches)
    assert all(record.everyone for record in state.history)
    assert looked(state) == []
    assert state.num_extra == 1


def test_an_image_too_small_to_lose_a_token_gets_no_fused_token(tiny_trunk, images):
    """ceil(.7 x 3) = 3."""
    with torch.no_grad():
        state = tiny_trunk(evit())(images(2, (1, 3)))
    assert all(record.selection.keep.all() for record in state.history)
    assert not state.presence()[:, 1:].any()


# ------------------------------------------------------------------ schedules


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1.0), (9, 1.0), (60, 0.85), (110, 0.7), (299, 0.7)]
)
def test_the_rate_falls_along_a_cosine(epoch, rate):
    """10 epochs with every token, then 100 to the rate; 5 steps an epoch."""
    policy = evit(warmup_start=50, warmup_steps=500)
    policy.set_step(5 * epoch, 5 * 300)
    assert policy.keep_rates() == pytest.approx([rate] * 3)
    assert policy.eval().keep_rates() == [0.7] * 3


def test_before_the_warm_up_nothing_is_fused(tiny_trunk, images):
    trunk = tiny_trunk(evit(warmup_start=1, warmup_steps=10)).train()
    state = trunk(images(2, (5, 7)))
    assert all(record.selection.keep.all() for record in state.history)
    assert state.num_extra == 1 and state.present is None
    trunk.policy.set_step(6)
    assert trunk(images(2, (5, 7))).num_extra == 4


def test_the_step_is_saved():
    policy = evit(warmup_start=1, warmup_steps=2)
    rates = [policy.keep_rates()[0]]  # before any step was heard of
    for step in range(4):
        policy.set_step(step)
        rates.append(policy.keep_rates()[0])
        fresh = evit(warmup_start=1, warmup_steps=2)
        fresh.load_state_dict(policy.state_dict())
        assert fresh.keep_rates() == policy.keep_rates()
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.85, 0.7])


def test_the_rate_may_fall_at_once_after_its_start():
    policy, rates = evit(warmup_start=2), []
    for step in range(4):
        policy.set_step(step)
        rates.append(policy.keep_rates()[0])
    assert rates == [1.0, 1.0, 0.7, 0.7]


def test_whatever_is_dropped_has_no_gate(decide, a_state):
    """Under a policy that blends, a fused token's share in the MLP's outcome is none."""
    gate = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    attention = attention_of([0.40, 0.0, 0.30, 0.05])
    policy = evit(keep_ratios=(0.5, 0.4, 0.3))
    _, chosen = decide(policy, a_state(4, 1), attention, gate.bool(), gate=gate)
    assert chosen.keep.tolist() == [[True, False, True, False]]
    assert chosen.gate.tolist() == [[1, 0, 1, 0]]


def test_another_budget_at_inference(tiny_trunk, images):
    policy = evit().eval()
    policy.set_keep_ratio(0.3)
    rates = policy.keep_rates()
    shares = [rates[0], rates[0] * rates[1], rates[0] * rates[1] * rates[2]]
    assert sum(shares) / 3 == pytest.approx(0.3, abs=1e-6)
    assert policy.train().keep_rates() == [0.7] * 3
    policy.set_keep_ratio(1.0)
    trunk = tiny_trunk(policy)
    assert looked(trunk(images(1))) == []
    assert looked(trunk.train()(images(1))) == [3, 6, 9]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"keep_ratios": (0.7, 0.49, 0.0)}, r"keep_ratios: 0.0 must lie in \(0, 1\]"),
        ({"keep_ratios": (0.5, 0.7, 0.3)}, ".* rises, but EViT cannot reactivate a token"),
        ({"layers": (6, 3, 9)}, r"layers: \[6, 3, 9\] must ascend for EViT"),
        ({"layers": (3, 6)}, "keep_ratios: 3 targets for 2 layers"),
        ({"warmup_steps": -1}, r"warmup_steps: -1 must lie in \[0, 1e9\]"),
        ({"test_keep_ratio": 0.0}, "test_keep_ratio: 0.0 must lie"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_a_sentence(config, words):
    with pytest.raises(InputError, match=f"^{words}"):
        evit(**config)
