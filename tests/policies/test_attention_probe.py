"""AttentionProbe: the dense model that writes down what its class token looks at."""

import torch
from torch.testing import assert_close

from svit_det.policies.attention_probe import AttentionProbe
from svit_det.tokens import PassRecord, TokenGrid


def test_it_is_the_dense_model_with_a_class_token(tiny_trunk, images, class_everyone):
    trunk, batch = tiny_trunk(AttentionProbe(), depth=3), images(2)
    dense = tiny_trunk(class_everyone(), depth=3)
    dense.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        state = trunk(batch)
        assert_close(state.patches, dense(batch).patches, atol=1e-5, rtol=1e-5)
    assert all(record.everyone and record.looked for record in state.history)


def test_every_block_leaves_the_mean_over_heads(tiny_trunk, images):
    trunk = tiny_trunk(AttentionProbe(), depth=3)
    with torch.no_grad():
        start = trunk.embed(images(2, (3, 5)))
        for layer in range(3):
            state = trunk.run(start, layer, layer + 1)
            block = trunk.blocks[layer]
            rows = block.norm1(start.tokens)
            query, key, _ = block.attn.qkv(rows).unflatten(-1, (3, 3, 8)).unbind(2)
            weights = (torch.einsum("bhd,bnhd->bhn", query[:, 0], key) / 8**0.5).softmax(dim=-1)
            seen = weights.mean(dim=1)[:, 1:]
            assert_close(state.history[layer].selection.score, seen, atol=1e-6, rtol=1e-5)
            start = state
    record = PassRecord.of(start, start.patches)
    maps = record.image_score_maps(1, TokenGrid.of_tokens(2, 4))
    assert maps.shape == (3, 2, 4)
    assert torch.equal(maps[2, 1], start.history[2].selection.score[1].unflatten(0, (3, 5))[1, :4])
