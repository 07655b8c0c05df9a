"""Evo-ViT: the running score by hand, the two modes, and the representative token."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies.evo_vit import EvoViT
from svit_det.tokens import ClassAttention, Selection, TokenState

WIDTH = 24


def evo(depth=12, **changes):
    return EvoViT(embed_dim=WIDTH, depth=depth, **changes)


def a_state(num_patches=4):
    return TokenState(
        patches=torch.randn(1, num_patches, WIDTH),
        extra=torch.randn(1, 1, WIDTH),
        grid=(1, num_patches),
    )


def attention_of(summed):
    """Two heads that look alike, so that their sum is `summed`."""
    weights = torch.tensor([[summed, summed]]) / 2
    return ClassAttention(
        weights=weights,
        extra_weights=torch.full((1, 2, 1), 0.1),
        value_norm=torch.ones(1, len(summed)),
    )


def score(policy, layer, state, summed, keep=None):
    keep = torch.ones(1, 4).bool() if keep is None else keep
    selection = Selection(keep=keep)
    after, chosen = policy.before_attention(layer, state, selection, attention_of(summed))
    assert chosen is selection  # the scores change, who runs does not
    return after


def test_four_patches_by_hand():
    """g = (.1, .4, .2, .3): patches 2 and 4 run, see (.8, .2), and are chosen again."""
    policy = evo().eval()
    state = score(policy, 0, a_state(), [0.1, 0.4, 0.2, 0.3])  # block 0: the attention itself
    state, selection = policy.before_block(4, state)
    assert selection.keep.tolist() == [[False, True, False, True]]
    state = score(policy, 4, state, [0.0, 0.8, 0.0, 0.2], selection.keep)
    assert_close(state.memory.score, torch.tensor([[0.1, 0.6, 0.2, 0.25]]))
    _, selection = policy.before_block(5, state)
    assert selection.keep.tolist() == [[False, True, False, True]]


def test_it_chooses_among_those_allowed():
    """Half of all four, though the best may not run."""
    state = score(evo(), 0, a_state(), [0.1, 0.4, 0.2, 0.3])
    state = replace(state, allowed=torch.tensor([[True, False, True, True]]))
    _, selection = evo().eval().before_block(4, state)
    assert selection.keep.tolist() == [[False, False, True, True]]
    # A block that keeps to an earlier choice leaves out those who may not run any more.
    stages = evo(stage_wise=True).eval()
    chosen, _ = stages.before_block(4, replace(state, allowed=None))
    fewer = torch.tensor([[True, True, True, False]])
    _, selection = stages.before_block(5, replace(chosen, allowed=fewer))
    assert selection.keep.tolist() == [[False, True, False, False]]


def test_before_the_first_choice_everyone_updates():
    policy = evo(score_update_before=0.25)
    state = score(policy, 0, a_state(), [0.4, 0.0, 0.2, 0.0])
    state = score(policy, 1, state, [0.0, 0.8, 0.2, 0.4])
    assert_close(state.memory.score, torch.tensor([[0.3, 0.2, 0.2, 0.1]]))


def test_the_score_is_that_of_the_class_token_in_the_trunk(tiny_trunk, images):
    trunk = tiny_trunk(evo(depth=2, layers=[1]), depth=2)
    with torch.no_grad():
        start = trunk.embed(images(2, (4, 5)))
        state = trunk.run(start, 0, 2)
        block = trunk.blocks[0]
        rows = block.norm1(torch.cat([start.extra, start.patches], dim=1))
        query, key, _ = block.attn.qkv(rows).unflatten(-1, (3, 3, 8)).unbind(2)
        weights = (torch.einsum("bhd,bnhd->bhn", query[:, 0], key) / 8**0.5).softmax(dim=-1)
        summed = weights.sum(dim=1)[:, 1:]
    assert_close(state.trace[1].score, summed, atol=1e-6, rtol=1e-5)
    for image in range(2):
        top = set(summed[image].topk(10).indices.tolist())
        assert set(state.trace[1].keep[image].nonzero().flatten().tolist()) == top


def test_placeholders_stay_and_every_image_keeps_the_same_number(tiny_trunk, images):
    trunk = tiny_trunk(evo())
    with torch.no_grad():
        before = trunk.run(trunk.embed(images(3, (5, 7))), 0, 4)
        after = trunk.run(before, 4, 5)
        trace = trunk.run(after, 5, 12).trace
    keep = after.trace[4].keep
    assert torch.equal(after.patches[~keep], before.patches[~keep])
    assert all((selection.keep.sum(dim=1) == 17).all() for selection in trace[4:])  # int(17.5)
    assert all(selection.whole for selection in trace[:4])


def test_stage_wise_chooses_twice(tiny_trunk, images):
    trunk = tiny_trunk(evo(stage_wise=True, score_update=1.0), spread=0.4)
    with torch.no_grad():
        trace = trunk(images(2, (5, 7))).trace
    for stage in (range(4, 8), range(8, 12)):
        for layer in stage:
            assert torch.equal(trace[layer].keep, trace[stage[0]].keep)
    assert not torch.equal(trace[4].keep, trace[8].keep)


def test_a_stage_may_keep_everyone(tiny_trunk, images):
    ratios = [0.5] * 4 + [1.0] * 4
    with torch.no_grad():
        trace = tiny_trunk(evo(stage_wise=True, keep_ratios=ratios))(images(1, (5, 7))).trace
    assert not trace[7].keep.all()
    assert trace[8].whole and trace[11].whole
    with torch.no_grad():
        trace = tiny_trunk(evo(keep_ratios=ratios))(images(1, (5, 7))).trace
    assert not trace[7].keep.all() and trace[8].whole


def test_only_the_attention_that_matters_is_asked_for():
    assert evo().score_layers == set(range(11))
    assert evo(score_update_before=1.0).score_layers == set(range(3, 11))
    assert evo(stage_wise=True).score_layers == set(range(8))
    assert evo(keep_ratios=[1.0] * 8).score_layers == set()
    narrower = evo().eval()
    narrower.set_keep_ratio(1.0)
    assert narrower.score_layers == set()


def test_a_full_update_needs_one_block_only(tiny_trunk, images):
    """What is not asked for would have been forgotten."""
    few = tiny_trunk(evo(score_update_before=1.0))

    class AsksAll(EvoViT):
        score_layers = frozenset(range(11))

    every = tiny_trunk(AsksAll(embed_dim=WIDTH, depth=12, score_update_before=1.0))
    every.load_state_dict(few.state_dict())
    batch = images(2, (5, 7))
    with torch.no_grad():
        assert torch.equal(few(batch).patches, every(batch).patches)


def test_keeping_everyone_is_the_dense_model(tiny_trunk, images, class_everyone):
    trunk, batch = tiny_trunk(evo(keep_ratios=[1.0] * 8, representative=True)), images(2)
    dense = tiny_trunk(class_everyone())
    dense.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        assert torch.equal(trunk(batch).patches, dense(batch).patches)


# ------------------------------------------------------------------ the representative token


def test_the_representative_is_the_mean_of_the_skipped_by_score():
    policy = evo(representative=True).eval()
    state = score(policy, 0, a_state(), [0.1, 0.4, 0.3, 0.5])
    entered, selection = policy.before_block(4, state)
    assert selection.keep.tolist() == [[False, True, False, True]]
    by_hand = 0.25 * state.patches[0, 0] + 0.75 * state.patches[0, 2]
    assert_close(entered.extra[0, 1], by_hand)
    assert torch.equal(entered.extra[:, 0], state.extra[:, 0])


def test_what_the_representative_changes_by_goes_to_all_skipped():
    policy = evo(representative=True).eval()
    state = score(policy, 0, a_state(), [0.1, 0.4, 0.3, 0.5])
    entered, selection = policy.before_block(4, state)
    change = torch.randn(1, 2, WIDTH)
    processed = replace(entered, extra=entered.extra + change)
    after = policy.after_block(4, entered, processed, selection)
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
    extra = torch.stack([selection.extra_counts for selection in state.trace])
    assert (extra[:4] == 1).all() and (extra[4:] == 2).all()
    assert state.extra.shape[1] == 1


def test_one_patch_has_nobody_to_represent(tiny_trunk, images):
    with torch.no_grad():
        state = tiny_trunk(evo(representative=True))(images(2, (1, 1)))
    assert state.patches.isfinite().all()
    assert all((selection.extra_counts == 1).all() for selection in state.trace)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": [0, 4], "keep_ratios": [0.5, 0.5]}, "block 0 cannot choose"),
        ({"keep_ratios": [0.5] * 7 + [0.0]}, r"KEEP_RATIOS: \[0.0\] must lie"),
        ({"keep_ratios": [0.5]}, "1 targets for 8 LAYERS"),
        ({"stage_wise": True, "stages": [8, 4]}, r"STAGES: \[8, 4\] must be blocks of LAYERS"),
        ({"stage_wise": True, "stages": [4, 12]}, "must be blocks of LAYERS"),
        ({"stage_wise": True, "stages": [5, 8]}, "must begin with the first of LAYERS, 4"),
        ({"stage_wise": True, "stages": []}, "must begin with the first of LAYERS, 4"),
        ({"score_update": 0.0}, "SCORE_UPDATE: 0.0 must lie"),
        ({"score_update_before": 1.5}, "SCORE_UPDATE_BEFORE: 1.5 must lie"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(changes, words):
    with pytest.raises(InputError, match=words):
        evo(**changes)
