"""Multiply-adds: the closed form against published figures, and the trace against what ran."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from svit_det.policies import EViT, EvoViT, SViT
from svit_det.policies.gating import TokenGate
from svit_det.tokens import Selection, TokenTrace
from svit_det.vit.flops import block_macs, count_macs, trunk_macs

KEEP = [1.0] * 3 + [0.7] * 3 + [0.49] * 3 + [0.343] * 3
GATED = range(3, 12)


def trace_of(state):
    return TokenTrace(state.trace, state.grid)


def svit(**changes):
    options = {"layers": [3, 4, 6], "keep_ratios": [0.7, 0.5, 0.3], "mode": "quota"}
    return SViT(embed_dim=24, depth=12, **options | changes)


def executed(trunk, images):
    """The trace of a forward pass and the multiply-adds that really ran in it."""
    states = []
    with torch.no_grad():
        counted = count_macs(lambda: states.append(trunk(images)))
    return trace_of(states[0]), counted


# ------------------------------------------------------------------ published figures


@pytest.mark.parametrize(("embed_dim", "gmacs"), [(192, 1.254), (384, 4.599)])
def test_deit_at_224(embed_dim, gmacs):
    # 196 patches and the class token through 12 blocks, patch embedding, and the head on one token.
    blocks = 12 * block_macs(197, 197, embed_dim=embed_dim)
    total = blocks + 196 * 768 * embed_dim + 1000 * embed_dim
    assert total / 1e9 == pytest.approx(gmacs, abs=5e-4)


@pytest.mark.parametrize(("embed_dim", "gmacs"), [(192, 0.79), (384, 2.95)])
def test_svit_targets_at_224(embed_dim, gmacs):
    # The same with the class token always in, and nine gates on the 196 patches.
    blocks = sum(
        block_macs(196 * share + 1, 196 * share + 1, embed_dim=embed_dim) for share in KEEP
    )
    gates = 9 * TokenGate(embed_dim).macs(196)
    total = blocks + gates + 196 * 768 * embed_dim + 1000 * embed_dim
    assert total / 1e9 == pytest.approx(gmacs, abs=5e-3)


@pytest.mark.parametrize(
    ("embed_dim", "dense", "pruned"), [(192, 103.6, 52.0), (384, 251.8, 133.0)]
)
def test_blocks_at_800_by_1344(tiny_trunk, embed_dim, dense, pruned):
    # 4,200 tokens, no class token, no patch embedding; the pruned figure includes the gates.
    keep = torch.zeros(12, 1, 4200, dtype=torch.bool)
    for layer, share in enumerate(KEEP):
        keep[layer, :, : round(4200 * share)] = True
    policy = SViT(embed_dim=embed_dim, depth=12, layers=GATED, keep_ratios=KEEP[3:])
    trunk = tiny_trunk(policy, embed_dim=embed_dim)
    for block in trunk.blocks:  # the fixture's MLP is half as wide as DeiT's
        block.mlp.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
    macs = trunk_macs(trunk, TokenTrace(tuple(Selection(keep=row) for row in keep), (50, 84)))
    assert macs.dense_stack / 1e9 == pytest.approx(dense, abs=0.05)
    assert macs.stack.item() / 1e9 == pytest.approx(pruned, abs=0.05)
    assert macs.bound == pytest.approx(dense / pruned, abs=2e-3)


def test_a_block_by_hand():
    # 3 tokens of 2 channels: qkv 3*2*6, projection 3*2*2, scores and mix 2*3*3*2; MLP 2 * 2*2*8.
    assert block_macs(3, 2, embed_dim=2) == 36 + 12 + 36 + 64


# ------------------------------------------------------------------ the trace against what ran


def test_dense_trunk_is_counted_exactly(tiny_trunk, images):
    trunk = tiny_trunk()
    trace, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, trace)
    assert macs.total.tolist() == [counted.total // 2] * 2
    assert macs.dense_total == counted.total // 2
    assert macs.bound == 1


@pytest.mark.parametrize("batch", [1, 2])
def test_quota_is_counted_exactly(tiny_trunk, images, batch):
    trunk = tiny_trunk(svit())
    trace, counted = executed(trunk, images(batch))
    macs = trunk_macs(trunk, trace)
    assert macs.total.sum() == counted.total
    assert macs.bound < macs.bound_of_blocks
    assert macs.decisions.nonzero().flatten().tolist() == [3, 4, 6]
    assert trace.counts()[0, [3, 4, 6]].tolist() == [10, 8, 4]


def test_different_counts_per_image_are_counted_exactly(tiny_trunk, images):
    trunk = tiny_trunk(svit(mode="argmax"))
    trace, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, trace)
    assert macs.total[0] != macs.total[1]
    assert macs.total.sum() == counted.total


def test_an_image_without_tokens_costs_its_decision_only(tiny_trunk, images, scripted):
    nobody = torch.zeros(2, 15, dtype=torch.bool)
    only_second = nobody.clone()
    only_second[1, :4] = True
    trunk = tiny_trunk(scripted([Selection(keep=nobody), Selection(keep=only_second)]), depth=2)
    trace, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, trace)
    assert macs.blocks[:, 0].tolist() == [0, 0] and macs.blocks[0, 1] == 0
    assert macs.total.sum() == counted.total


def test_masked_execution_runs_everyone(tiny_trunk, images):
    trunk = tiny_trunk(svit()).train()
    trace, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, trace)
    assert int(macs.blocks.sum()) == 2 * macs.dense_stack
    assert macs.total.sum() == counted.total


def test_extra_tokens_count(tiny_trunk, images, class_everyone):
    trunk = tiny_trunk(class_everyone())
    trace, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, trace)
    assert macs.total.sum() == counted.total
    # The dense model that it is compared with has the class token too.
    assert macs.dense_total == counted.total // 2 and macs.bound == 1


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_policy_is_counted_exactly(policy, tiny_trunk, images, training):
    trunk = tiny_trunk(policy).train(training)
    trace, counted = executed(trunk, images(2, (5, 7)))
    macs = trunk_macs(trunk, trace)
    # The row that a policy looks at is computed elementwise, which torch's counter leaves out.
    looking = sorted(policy.score_layers | policy.attention_layers)
    attended = trace.attention_counts()
    if training:
        blended = [selection.gate is not None for selection in trace.selections]
        attended[:, blended] = 35
    rows = (attended + trace.extra_counts()[..., 0])[:, looking]
    assert macs.total.sum() - rows.sum() * 24 == counted.total


@pytest.mark.parametrize(
    "policy",
    [
        EvoViT(embed_dim=24, depth=12, representative=True),
        EvoViT(embed_dim=24, depth=12, representative=True, stage_wise=True),
        EvoViT(
            embed_dim=24,
            depth=12,
            representative=True,
            stage_wise=True,
            keep_ratios=[0.5, 1, 1, 1, 1, 0.3, 0.3, 0.3],
        ),
        EViT(embed_dim=24, depth=12, fuse=False),
        EViT(embed_dim=24, depth=12, keep_ratios=[1.0, 0.5, 0.5]),
    ],
)
def test_their_variants_are_counted_exactly(policy, tiny_trunk, images):
    test_every_policy_is_counted_exactly(policy, tiny_trunk, images, False)


def test_those_who_do_not_ask_are_saved():
    # 3 keys, 2 queries, 2 channels: keys and values 2*3*4, queries and projection 2*2*4,
    # scores and mix 2*2*3*2; MLP of 2 tokens.
    assert block_macs(3, 2, 2, embed_dim=2) == 24 + 16 + 24 + 64


# ------------------------------------------------------------------ count_macs on anything


def test_fused_attention_on_a_cpu_is_counted():
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    by_hand = 2 * 3 * 5 * 7 * (8 + 8)
    assert count_macs(lambda: F.scaled_dot_product_attention(query, key, key)).total == by_hand
    masked = count_macs(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask))
    assert masked.total == by_hand


def test_a_small_network_by_hand_with_its_modules():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(100, 10))
    counted = count_macs(lambda: net(torch.randn(2, 3, 5, 5)))
    convolution, linear = 2 * 25 * 4 * 3 * 9, 2 * 100 * 10
    assert counted.total == convolution + linear
    assert counted.by_module["Sequential"] == convolution + linear
    assert counted.by_module["Sequential.0"] == convolution
    assert counted.by_module["Sequential.2"] == linear


def test_roi_align_counts_as_nothing():
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    assert count_macs(lambda: roi_align(torch.randn(1, 2, 8, 8), boxes, 2)).total == 0
