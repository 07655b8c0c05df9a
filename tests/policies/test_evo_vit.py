"""Evo-ViT: the running score by hand, the two modes, and the representative token."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.evo_vit import EvoViT, Running
from svit_det.tokens import ClassAttention, PassRecord, Selection, everyone
from svit_det.vit.flops import count_macs, trunk_macs

WIDTH = 24


def evo(depth=12, kind=EvoViT, **config):
    return kind(config=EvoViT.Config(**config), shape=TrunkShape(WIDTH, depth, 3))


def attention_of(summed):
    """Two heads that look alike, so that their sum is `summed`."""
    weights = torch.tensor([[summed, summed]]) / 2
    return ClassAttention(weights=weights, extra_weights=torch.full((1, 2, 1), 0.1))


@pytest.fixture
def score(a_view):
    """The state after a block whose class token looks so."""

    def after_attention(policy, layer, state, summed, keep=None):
        selection = everyone(state) if keep is None else Selection(keep=keep)
        view = a_view(layer, attention=attention_of(summed))
        after, chosen = policy.after_attention(view, state, selection)
        assert chosen is selection  # the scores change, what runs does not
        assert after.tokens is state.tokens
        return after

    return after_attention


@pytest.fixture
def choose(a_view):
    """What block `layer` enters with."""

    def before_block(policy, layer, state, candidates=None):
        return policy.before_block(a_view(layer, candidates=candidates), state)

    return before_block


def looked(trunk, batch):
    """The blocks in which the policy asked for the class token's attention."""
    with torch.no_grad():
        history = trunk(batch).history
    return {layer for layer, record in enumerate(history) if record.looked}


def test_four_patches_by_hand(score, choose, a_state):
    """g = (.1, .4, .2, .3): patches 2 and 4 run, see (.8, .2), and are chosen again."""
    policy = evo().eval()
    state = score(policy, 0, a_state(4, 1), [0.1, 0.4, 0.2, 0.3])  # block 0: the attention itself
    state, selection = choose(policy, 4, state)
    assert selection.keep.tolist() == [[False, True, False, True]]
    state = score(policy, 4, state, [0.0, 0.8, 0.0, 0.2], selection.keep)
    assert_close(policy.recall(state).score, torch.tensor([[0.1, 0.6, 0.2, 0.25]]))
    _, selection = choose(policy, 5, state)
    assert selection.keep.tolist() == [[False, True, False, True]]


def test_it_chooses_among_the_candidates(score, choose, a_state):
    """Half of all four, though the best may not run."""
    state = score(evo(), 0, a_state(4, 1), [0.1, 0.4, 0.2, 0.3])
    candidates = torch.tensor([[True, False, True, True]])
    _, selection = choose(evo().eval(), 4, state, candidates)
    assert selection.keep.tolist() == [[False, False, True, True]]
    assert selection.total is None
    # A block that keeps to an earlier choice leaves out what may not run any more.
    stages = evo(stage_wise=True).eval()
    chosen, _ = choose(stages, 4, state)
    fewer = torch.tensor([[True, True, True, False]])
    _, selection = choose(stages, 5, chosen, fewer)
    assert selection.keep.tolist() == [[False, True, False, False]]
    assert selection.total is None


def test_before_the_first_choice_every_token_updates(score, a_state):
    policy = evo(score_update_before=0.25)
    state = score(policy, 0, a_state(4, 1), [0.4, 0.0, 0.2, 0.0])
    state = score(policy, 1, state, [0.0, 0.8, 0.2, 0.4])
    assert_close(policy.recall(state).score, torch.tensor([[0.3, 0.2, 0.2, 0.1]]))


def test_the_score_is_that_of_the_class_token_in_the_trunk(tiny_trunk, images):
    trunk = tiny_trunk(evo(depth=2, layers=(1,)), depth=2)
    with torch.no_grad():
        start = trunk.embed(images(2, (4, 5)))
        state = trunk.run(start, 0, 2)
        block = trunk.blocks[0]
        rows = block.norm1(start.tokens)
        query, key, _ = block.attn.qkv(rows).unflatten(-1, (3, 3, 8)).unbind(2)
        weights = (torch.einsum("bhd,bnhd->bhn", query[:, 0], key) / 8**0.5).softmax(dim=-1)
        summed = weights.sum(dim=1)[:, 1:]
    assert_close(state.history[1].selection.score, summed, atol=1e-6, rtol=1e-5)
    for image in range(2):
        top = set(summed[image].topk(10).indices.tolist())
        assert set(state.history[1].selection.keep[image].nonzero().flatten().tolist()) == top


def test_placeholders_stay_and_every_image_keeps_the_same_number(tiny_trunk, images):
    trunk = tiny_trunk(evo())
    with torch.no_grad():
        before = trunk.run(trunk.embed(images(3, (5, 7))), 0, 4)
        after = trunk.run(before, 4, 5)
        history = trunk.run(after, 5, 12).history
    keep = after.history[4].selection.keep
    assert torch.equal(after.patches[~keep], before.patches[~keep])
    assert all(
        (record.selection.keep.sum(dim=1) == 17).all() for record in history[4:]
    )  # int(17.5)
    assert all(record.selection.total == 18 for record in history[4:])
    assert all(record.everyone for record in history[:4])


def test_stage_wise_chooses_twice(tiny_trunk, images):
    trunk = tiny_trunk(evo(stage_wise=True, score_update=1.0), spread=0.4)
    with torch.no_grad():
        keeps = [record.selection.keep for record in trunk(images(2, (5, 7))).history]
    for stage in (range(4, 8), range(8, 12)):
        for layer in stage:
            assert torch.equal(keeps[layer], keeps[stage[0]])
    assert not torch.equal(keeps[4], keeps[8])


@pytest.mark.parametrize("stage_wise", [True, False])
def test_a_stage_may_keep_every_token(tiny_trunk, images, stage_wise):
    trunk = tiny_trunk(evo(stage_wise=stage_wise, keep_ratios=(0.5,) * 4 + (1.0,) * 4))
    with torch.no_grad():
        history = trunk(images(1, (5, 7))).history
    assert not history[7].selection.keep.all()
    assert history[8].everyone and history[11].everyone


def test_only_the_attention_that_matters_is_asked_for(tiny_trunk, images):
    batch = images(1)
    assert looked(tiny_trunk(evo()), batch) == set(range(11))
    assert looked(tiny_trunk(evo(score_update_before=1.0)), batch) == set(range(3, 11))
    assert looked(tiny_trunk(evo(stage_wise=True)), batch) == set(range(8))
    assert looked(tiny_trunk(evo(keep_ratios=(1.0,) * 8)), batch) == set()
    narrower = tiny_trunk(evo())
    narrower.policy.set_keep_ratio(1.0)
    assert looked(narrower, batch) == set()
    assert looked(narrower.train(), batch) == set(range(11))


def test_a_full_update_needs_one_block_only(tiny_trunk, images):
    """What is not asked for would have been forgotten."""

    class AsksAll(EvoViT):
        def _is_scored(self, layer):
            return layer < 11

    batch = images(2, (5, 7))
    few = tiny_trunk(evo(score_update_before=1.0))
    every = tiny_trunk(evo(kind=AsksAll, score_update_before=1.0))
    every.load_state_dict(few.state_dict())
    assert looked(every, batch) == set(range(11))
    with torch.no_grad():
        assert torch.equal(few(batch).patches, every(batch).patches)


def test_keeping_every_token_is_the_dense_model(tiny_trunk, images, class_everyone):
    trunk, batch = tiny_trunk(evo(keep_ratios=(1.0,) * 8, representative=True)), images(2)
    dense = tiny_trunk(class_everyone())
    dense.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        assert torch.equal(trunk(batch).patches, dense(batch).patches)


# ------------------------------------------------------------------ the representative token


def test_the_representative_is_the_mean_of_the_skipped_by_score(score, choose, a_state):
    policy = evo(representative=True).eval()
    state = score(policy, 0, a_state(4, 1), [0.1, 0.4, 0.3, 0.5])
    entered, selection = choose(policy, 4, state)
    assert selection.keep.tolist() == [[False, True, False, True]]
    by_hand = 0.25 * state.patches[0, 0] + 0.75 * state.patches[0, 2]
    assert_close(entered.extra[0, 1], by_hand)
    assert torch.equal(entered.extra[:, 0], state.extra[:, 0])


def test_what_the_representative_changes_by_goes_to_all_skipped(
    score, choose, a_state, a_view, a_record
):
    policy = evo(representative=True).eval()
    state = score(policy, 0, a_state(4, 1), [0.1, 0.4, 0.3, 0.5])
    entered, selection = choose(policy, 4, state)
    change = torch.randn(1, 2, WIDTH)
    tokens = torch.cat([entered.extra + change, entered.patches], dim=1)
    processed = replace(entered, tokens=tokens)
    after = policy.after_block(a_view(4), entered, processed, a_record(selection))
    assert after.extra.shape == (1, 1, WIDTH) and after.present is None
    assert_close(after.patches[0, [0, 2]], state.patches[0, [0, 2]] + change[0, 1])
    assert torch.equal(after.patches[0, [1, 3]], state.patches[0, [1, 3]])


def test_the_representative_runs_in_the_trunk(tiny_trunk, images):
    policy = evo(representative=True)
    assert not policy.preserves and policy.adds_tokens
    trunk, batch = tiny_trunk(policy), images(2, (5, 7))
    with torch.no_grad():
        state = trunk(batch)
        alone = torch.cat([trunk(batch[i : i + 1]).patches for i in range(2)])
    assert_close(state.patches, alone, atol=1e-5, rtol=1e-5)
    assert all(record.rows.mlp == (36, 36) for record in state.history[:4])  # and the class token
    assert all(record.rows.mlp == (19, 19) for record in state.history[4:])  # 17 and two more
    assert state.num_extra == 1


def test_one_patch_has_nothing_to_represent(tiny_trunk, images):
    with torch.no_grad():
        state = tiny_trunk(evo(representative=True))(images(2, (1, 1)))
    assert state.patches.isfinite().all()
    assert all(record.rows.keys == record.rows.mlp == (2, 2) for record in state.history)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layers": (0, 4), "keep_ratios": (0.5, 0.5)}, "layers: block 0 cannot choose"),
        ({"keep_ratios": (0.5,) * 7 + (0.0,)}, r"keep_ratios: 0.0 must lie in \(0, 1\]"),
        ({"keep_ratios": (0.5,)}, "keep_ratios: 1 targets for 8 layers"),
        ({"stage_wise": True, "stages": (8, 4)}, r"stages: \[8, 4\] must be blocks of layers"),
        ({"stage_wise": True, "stages": (4, 12)}, r"stages: \[4, 12\] must be blocks of layers"),
        ({"stage_wise": True, "stages": (5, 8)}, ".* must begin with the first of layers, 4"),
        ({"stage_wise": True, "stages": ()}, ".* must begin with the first of layers, 4"),
        ({"score_update": 0.0}, "score_update: 0.0 must lie"),
        ({"score_update_before": 1.5}, "score_update_before: 1.5 must lie"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_a_sentence(config, words):
    with pytest.raises(InputError, match=f"^{words}"):
        evo(**config)


# ------------------------------------------------------------------ refreshed scores


def test_refresh_updates_the_skipped_too(a_view, a_state):
    """Four patches, of which block 5 keeps two: g = .5 (1 2 3 4) + .5 (.8 .4 .2 .6) for all."""
    state = a_state(4, 1)
    seen = torch.tensor([[0.8, 0.4, 0.2, 0.6]])
    keep = torch.tensor([[False, False, True, True]])
    for refresh, expected in (
        (True, [0.9, 1.2, 1.6, 2.3]),
        (False, [1.0, 2.0, 1.6, 2.3]),
    ):
        policy = evo(refresh=refresh)
        state = policy.remember(state, Running(torch.tensor([[1.0, 2, 3, 4]])))
        given = attention_of(seen[0].tolist())
        view = a_view(5, **{"to_all" if refresh else "attention": given})
        after, _ = policy.after_attention(view, state, Selection(keep=keep))
        assert_close(policy.recall(after).score, torch.tensor([expected]))


def test_the_attention_to_all_is_that_of_a_dense_block(tiny_trunk, images):
    """In block 4, before which every token ran, half are skipped; the score sees all of them."""
    trunk = tiny_trunk(evo(refresh=True, layers=(4,), score_update=1.0))
    batch = images(2, (3, 5))
    with torch.no_grad():
        state = trunk.run(trunk.embed(batch), 0, 4)
        trunk.policy._is_scored = lambda layer: True  # nothing later depends on the last one
        after = trunk.run(state, 4, 5)
        block = trunk.block(4)
        query, key, _ = block.attn.project(block.norm1(state.tokens), 0, 3).unbind(2)
        logits = torch.einsum("bhd,bkhd->bhk", query[:, 0], key) * query.shape[-1] ** -0.5
    record = after.history[-1]
    assert record.rows.keys == (8, 8) and record.looked_at_all and not record.looked
    expected = logits.softmax(dim=-1).sum(dim=1)[:, 1:]
    assert_close(trunk.policy.recall(after).score, expected, atol=1e-5, rtol=1e-5)


def test_refreshing_is_counted(tiny_trunk, images):
    trunk, batch = tiny_trunk(evo(refresh=True)), images(1, (3, 5))
    with torch.no_grad():
        counted = count_macs(lambda: trunk(batch)).total
        state = trunk(batch)
    record = PassRecord.of(state, state.patches)
    assert counted == int(trunk_macs(trunk, record).total)


def test_refreshed_sets_change_more(tiny_trunk, images):
    """With random weights, where every block looks elsewhere."""
    batch, changes = images(4, (6, 8)), {}
    for refresh in (False, True):
        torch.manual_seed(1)
        trunk = tiny_trunk(evo(refresh=refresh))
        with torch.no_grad():
            keeps = [record.selection.keep for record in trunk(batch).history[4:]]
        changes[refresh] = sum((one != two).sum().item() for one, two in pairwise(keeps))
    assert changes[True] > changes[False]
