"""AttentionProbe: the dense model that writes down what its class token looks at."""

import torch
from torch.testing import assert_close

from svit_det.policies import AttentionProbe
from svit_det.tokens import TokenTrace


def test_it_is_the_dense_model_with_a_class_token(tiny_trunk, images, class_everyone):
    trunk, batch = tiny_trunk(AttentionProbe(depth=3), depth=3), images(2)
    dense = tiny_trunk(class_everyone(), depth=3)
    dense.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        state = trunk(batch)
        assert_close(state.patches, dense(batch).patches, atol=1e-5, rtol=1e-5)
    assert all(selection.whole for selection in state.trace)


def test_every_block_leaves_the_mean_over_heads(tiny_trunk, images):
    trunk = tiny_trunk(AttentionProbe(depth=3), depth=3)
    with torch.no_grad():
        start = trunk.embed(images(2, (3, 5)))
        for layer in range(3):
            state = trunk.run(start, layer, layer + 1)
            block = trunk.blocks[layer]
            rows = block.norm1(torch.cat([start.extra, start.patches], dim=1))
            query, key, _ = block.attn.qkv(rows).unflatten(-1, (3, 3, 8)).unbind(2)
            weights = (torch.einsum("bhd,bnhd->bhn", query[:, 0], key) / 8**0.5).softmax(dim=-1)
            seen = weights.mean(dim=1)[:, 1:]
            assert_close(state.trace[layer].score, seen, atol=1e-6, rtol=1e-5)
            start = state
    maps = TokenTrace(start.trace, start.grid).image_score_maps(1, (2, 4))
    assert maps.shape == (3, 2, 4)
    assert torch.equal(maps[2, 1], start.trace[2].score[1].unflatten(0, (3, 5))[1, :4])
