"""AttentionWatch: what the class token looks at under any policy, which decides as before."""

import copy

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies.attention_probe import (
    AttentionProbe,
    AttentionWatch,
    watched_attention,
)
from svit_det.tokens import PassRecord, Selection


def passed(trunk, batch):
    with torch.no_grad():
        state = trunk(batch)
    return state, PassRecord.of(state, trunk.read_map(state))


@pytest.fixture
def pair(tiny_trunk):
    """Factory: the same trunk twice, once with its policy watched."""

    def make(policy, **options):
        trunk = tiny_trunk(policy, class_token=True, **options)
        watched = copy.deepcopy(trunk)
        watched.policy = AttentionWatch(watched.policy)
        return trunk, watched

    return make


def test_every_policy_decides_and_computes_as_without_it(policy, pair, images):
    alone, watched = pair(policy)
    batch = images(2, (3, 5))
    (state, record), (seen_state, seen_record) = passed(alone, batch), passed(watched, batch)
    assert torch.equal(record.keep_maps(), seen_record.keep_maps())
    assert_close(seen_state.tokens, state.tokens, atol=1e-5, rtol=1e-5)
    seen = watched_attention(seen_record)
    assert seen.shape == (2, 12, 15)
    assert (seen >= 0).all() and (seen.sum(dim=2) <= 1 + 1e-5).all()
    for layer, block in enumerate(seen_record.blocks):
        assert (seen[:, layer][~block.keys] == 0).all()
    assert (seen.sum(dim=2) > 0).any(dim=0).sum() >= 6  # most blocks look at something


def test_on_the_dense_model_it_sees_what_the_probe_sees(tiny_trunk, pair, images):
    _, watched = pair(None, depth=3)
    probe = tiny_trunk(AttentionProbe(), depth=3)
    probe.load_state_dict(watched.state_dict())
    batch = images(2)
    seen = watched_attention(passed(watched, batch)[1])
    for layer, block in enumerate(passed(probe, batch)[1].blocks):
        assert_close(seen[:, layer], block.selection.score)


def test_only_kept_tokens_share_the_attention(scripted, pair, images):
    """Three of four tokens are keys: their weights and the class token's own sum to 1, by hand."""
    keep = torch.tensor([[True, False, True, True]])
    policy = scripted([None, Selection(keep=keep), None])
    _, watched = pair(policy, depth=3, pretrain_grid=(2, 2))
    batch = images(1, (2, 2))
    with torch.no_grad():
        start = watched.run(watched.embed(batch), 0, 1)
        block = watched.blocks[1]
        query, key, _ = block.attn.qkv(block.norm1(start.tokens)).unflatten(-1, (3, 3, 8)).unbind(2)
        logits = torch.einsum("hd,nhd->hn", query[0, 0], key[0]) / 8**0.5
        expected = logits[:, [0, 1, 3, 4]].softmax(dim=-1).mean(dim=0)
    seen = watched_attention(passed(watched, batch)[1])[0]
    assert_close(seen[1][keep[0]], expected[1:], atol=1e-6, rtol=1e-5)
    assert seen[1, 1] == 0 and (seen[[0, 2]] > 0).all()


def test_a_block_that_nobody_enters_leaves_zeros_in_its_own_place(scripted, pair, images):
    nobody = Selection(
        keep=torch.zeros(2, 4, dtype=torch.bool), extra=torch.zeros(2, 1, dtype=torch.bool)
    )
    _, watched = pair(scripted([None, nobody, None]), depth=3, pretrain_grid=(2, 2))
    seen = watched_attention(passed(watched, images(2, (2, 2)))[1])
    assert (seen[:, 1] == 0).all() and (seen[:, [0, 2]] > 0).all()


def test_weights_are_those_of_the_policy_inside(make_policy, pair):
    alone, watched = pair(make_policy("SViT"))
    assert list(watched.state_dict()) == list(alone.state_dict())
