"""ATS: the sampling by hand, and what only ATS does."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.ats import ATS, inverse_transform_sample
from svit_det.tokens import ClassAttention, PassRecord, Selection
from svit_det.vit.flops import count_macs, trunk_macs

# Scores of one image, points of the grid (the original counts the class token too: one more), and
# the patches that its class keeps, counted from 1.
ORIGINAL = [
    ([0.10, 0.30, 0.02, 0.15, 0.06, 0.25, 0.04, 0.08], 8, {1, 2, 4, 6, 7, 8}),
    ([0.7, 0.2, 0.05, 0.03, 0.02], 5, {1, 2, 4}),
    ([0.4, 0.1, 0.3, 0.05, 0.15], 5, {1, 2, 3, 5}),
    ([0.4, 0.1, 0.3, 0.05, 0.15], 8, {1, 2, 3, 5}),
]


def kept(score, num_points, among=None):
    """Patches that are sampled from one image, counted from 1."""
    score = torch.tensor([score])
    among = torch.ones_like(score, dtype=torch.bool) if among is None else among
    sampled = inverse_transform_sample(score, among, num_points)
    return {place + 1 for place in sampled[0].nonzero().flatten().tolist()}


@pytest.mark.parametrize(("score", "num_points", "patches"), ORIGINAL)
def test_the_originals_samples(score, num_points, patches):
    assert kept(score, num_points) == patches


def compared_all_with_all(score, num_points):
    """The original's way: every grid point against every value of the distribution, in double."""
    ascending, order = (score.double() / score.double().sum()).sort(dim=1, stable=True)
    total = ascending.cumsum(dim=1)
    value = (total - total.min()) / (total.max() - total.min())
    start = value[value > 0].min()
    grid = start + torch.arange(num_points) * (1 - start) / (num_points - 1)
    nearest = (grid[:, None] - value).abs().argmin(dim=1)
    return {place + 1 for place in order[0, nearest.unique()].tolist()}


@pytest.mark.parametrize("num_points", [3, 7, 20, 45])
def test_the_nearest_is_found_as_by_comparing_all_with_all(num_points):
    score = torch.rand(1, 40, dtype=torch.float64) ** 3
    score[0, 5:9] = score[0, 4]  # equal scores, equal steps
    everyone = torch.ones_like(score).bool()
    sampled = inverse_transform_sample(score, everyone, num_points)
    places = {place + 1 for place in sampled[0].nonzero().flatten().tolist()}
    assert places == compared_all_with_all(score, num_points)


def test_so_it_is_among_thousands():
    """COCO's 4,200 tokens, scores in single precision."""
    score = torch.rand(1, 4200)
    sampled = inverse_transform_sample(score, torch.ones_like(score).bool(), 2940)
    places = {place + 1 for place in sampled[0].nonzero().flatten().tolist()}
    assert places == compared_all_with_all(score, 2940)


def test_halfway_between_two_the_lower_is_meant():
    """F is 0, 1/4, 1/2, 3/4, 1, the grid 1/4, 5/8, 1: its second is as far from 1/2 as from 3/4."""
    assert kept([2.0, 4.0, 4.0, 4.0, 4.0], 3) == {2, 3, 5}


def test_of_those_alive_the_best_is_always_picked_and_no_other():
    """The grid ends exactly at 1, before those begin that are gone."""
    score, among = torch.rand(2000, 12), torch.rand(2000, 12) < 0.5
    sampled = inverse_transform_sample(score, among, 7)
    assert not (sampled & ~among).any()
    best = score.masked_fill(~among, -1).argmax(dim=1)
    some = among.any(dim=1)
    assert sampled[torch.arange(2000), best][some].all()


def test_tokens_of_score_zero_are_never_sampled():
    assert kept([0.0, 0.0, 0.5, 0.0, 0.5], 8) == {3, 5}


def test_the_weakest_is_always_dropped():
    for num_points in (2, 7, 50, 1000):
        score = torch.rand(3, 21)
        sampled = inverse_transform_sample(score, torch.ones(3, 21).bool(), num_points)
        assert not sampled[torch.arange(3), score.argmin(dim=1)].any()
        assert (sampled.sum(dim=1) <= num_points).all()
        assert sampled[torch.arange(3), score.argmax(dim=1)].all()


def test_more_points_keep_more():
    score, everyone = torch.rand(4, 60) ** 2, torch.ones(4, 60).bool()
    counts = [
        inverse_transform_sample(score, everyone, num_points).sum(dim=1)
        for num_points in (5, 10, 20, 40, 80, 160)
    ]
    assert all((more >= fewer).all() for fewer, more in pairwise(counts))
    assert (counts[-1] > counts[0]).all()


def test_only_those_alive_are_sampled_each_image_by_itself():
    """An image's tokens that are gone neither count nor come back."""
    score = torch.rand(2, 12)
    among = torch.rand(2, 12) < 0.6
    sampled = inverse_transform_sample(score, among, 6)
    assert not (sampled & ~among).any()
    for image in range(2):
        alive = score[image : image + 1, among[image]]
        alone = inverse_transform_sample(alive, torch.ones_like(alive).bool(), 6)
        assert torch.equal(sampled[image][among[image]], alone[0])


@pytest.mark.parametrize(
    "score", [[[0.3]], [[0.0, 0.0, 0.0]], [[float("1e-30"), 0.0]]], ids=["one", "zeros", "tiny"]
)
def test_what_cannot_be_decided_is_finite(score):
    score = torch.tensor(score)
    sampled = inverse_transform_sample(score, torch.ones_like(score).bool(), 7)
    assert sampled.any()
    nobody = inverse_transform_sample(score, torch.zeros_like(score).bool(), 7)
    assert not nobody.any()


# ------------------------------------------------------------------ in the trunk


def ats(**changes):
    settings = {"layers": (1, 2), "keep_ratios": (0.8, 0.5)} | changes
    return ATS(config=ATS.Config(**settings), shape=TrunkShape(24, 3, 3))


def test_what_is_sampled_hangs_on_attention_and_values(tiny_trunk, images):
    """By hand: S = sum over heads of the class token's attention, times the value's norm."""
    trunk = tiny_trunk(ats(), depth=3)
    with torch.no_grad():
        state = trunk.run(trunk.embed(images(2, (5, 7))), 0, 1)
        attn, norm = trunk.blocks[1].attn, trunk.blocks[1].norm1
        rows = norm(state.tokens)
        query, key, value = attn.qkv(rows).unflatten(-1, (3, 3, 8)).unbind(2)
        weights = (torch.einsum("bhd,bnhd->bhn", query[:, 0], key) / 8**0.5).softmax(dim=-1)
        score = weights.sum(dim=1) * value.flatten(2).norm(dim=2)
        after = trunk.run(state, 1, 2)
    assert_close(after.history[1].selection.score, score[:, 1:], atol=1e-6, rtol=1e-5)
    sampled = inverse_transform_sample(score[:, 1:], torch.ones(2, 35).bool(), 28)
    assert torch.equal(after.history[1].selection.keep, sampled)


def test_the_dropped_are_as_they_came_and_stay_out(tiny_trunk, images):
    trunk = tiny_trunk(ats(), depth=3)
    with torch.no_grad():
        before = trunk.run(trunk.embed(images(2, (5, 7))), 0, 1)
        state = trunk.run(before, 1, 3)
    first, second = state.history[1:]
    dropped = ~first.queries
    assert dropped.any(dim=1).all()
    assert torch.equal(state.patches[dropped], before.patches[dropped])
    assert torch.equal(first.mlp, first.queries) and torch.equal(first.selection.keep, first.mlp)
    assert first.keys.all() and torch.equal(second.keys, first.mlp)
    assert not (second.mlp & ~first.mlp).any()


def test_whatever_is_dropped_has_no_gate(a_state, a_view):
    seen = torch.rand(1, 3, 35)
    attention = ClassAttention(weights=seen, extra_weights=seen[..., :1])
    gate = (torch.rand(1, 35) < 0.8).float()
    selection = Selection(keep=gate.bool(), gate=gate)
    view = a_view(1, attention=attention, norms=torch.ones(1, 35))
    _, chosen = ats().before_attention(view, a_state(35, 1), selection)
    assert 0 < chosen.keep.sum() < gate.sum()
    assert torch.equal(chosen.gate, gate * chosen.keep)


def test_the_count_varies_by_image_and_is_bounded_by_the_grid(tiny_trunk, images):
    trunk = tiny_trunk(ats(), depth=3, spread=0.5)
    with torch.no_grad():
        state = trunk(images(8, (8, 10)))
    first, second = (record.selection.keep.sum(dim=1) for record in state.history[1:])
    assert len(second.unique()) > 1
    assert (first <= 64).all() and (second <= 40).all()
    assert state.history[2].rows.mlp == tuple((second + 1).tolist())


def test_it_has_no_parameters_and_runs_on_dense_weights(tiny_trunk, images):
    assert list(ats().parameters()) == []
    dense = tiny_trunk(depth=3)
    sparse = tiny_trunk(ats(), depth=3)
    missing = sparse.load_state_dict(dense.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["cls_token"], [])
    with torch.no_grad():
        assert sparse(images(1)).patches.isfinite().all()


def test_a_smaller_budget_at_inference_samples_fewer(tiny_trunk, images):
    trunk = tiny_trunk(ats(), depth=3)
    kept_by = []
    for ratio in (None, 0.4, 0.2):
        trunk.policy.set_keep_ratio(ratio)
        with torch.no_grad():
            kept_by.append(trunk(images(1, (10, 10))).history[2].selection.keep.sum())
        torch.manual_seed(0)
    assert kept_by[0] > kept_by[1] > kept_by[2]
    trunk.train()
    trunk.policy.set_keep_ratio(0.2)
    with torch.no_grad():
        assert trunk(images(1, (10, 10))).history[2].selection.keep.sum() > kept_by[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_ratios": (0.7, 1.2)}, r"keep_ratios: 1.2 must lie in \(0, 1\]"),  # > tokens
        ({"keep_ratios": (0.7, 0.0)}, "keep_ratios: 0.0 must lie"),
        ({"keep_ratios": (0.7,)}, "keep_ratios: 1 targets for 2 layers"),
        ({"layers": (2, 3)}, r"layers: \[3\] not in the trunk, whose 3 blocks"),
        ({"test_keep_ratio": 1.5}, "test_keep_ratio: 1.5 must lie"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_a_sentence(changes, words):
    with pytest.raises(InputError, match=f"^{words}"):
        ats(**changes)


def test_a_grid_of_more_points_than_tokens_are_left_is_no_trouble(tiny_trunk, images):
    """Seven points at least, as the original asks for, on images of one to six tokens."""
    trunk = tiny_trunk(ats(), depth=3)
    for columns in range(1, 7):
        with torch.no_grad():
            state = trunk(images(2, (1, columns)))
        assert state.patches.isfinite().all()
        assert state.history[2].selection.keep.any(dim=1).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_blocks_too_large_to_project_at_once_compute_the_same(
    tiny_trunk, images, monkeypatch, batch
):
    """Both ways keep the same tokens, and what the record counts is what ran."""
    trunk, pixels = tiny_trunk(ats(), depth=3).eval(), images(batch, (5, 7))
    with torch.no_grad():
        together = trunk(pixels)
        monkeypatch.setattr("svit_det.vit.view.JOINED_MACS", 0)
        apart = trunk(pixels)
        counted = count_macs(lambda: trunk(pixels)).total
    assert [each.joined for each in together.history] == [False, True, True]
    assert not any(each.joined for each in apart.history)
    for one, other in zip(together.history, apart.history, strict=True):
        assert torch.equal(one.selection.keep, other.selection.keep)
    assert_close(together.tokens, apart.tokens, atol=1e-5, rtol=1e-5)
    record = PassRecord.of(apart, apart.patches)
    assert trunk_macs(trunk, record).total.sum() == counted
