"""Multiply-adds: the closed form against published figures, and the record against what ran."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from svit_det.policies import TokenPolicy
from svit_det.policies.gating import TokenGate
from svit_det.tokens import (
    BlockParts,
    BlockRecord,
    PassRecord,
    RowCounts,
    Selection,
    TokenGrid,
)
from svit_det.vit import Execution, Masked, Padded
from svit_det.vit.attention import Attention
from svit_det.vit.flops import count_macs, trunk_macs
from svit_det.vit.layers import Block

KEEP = [1.0] * 3 + [0.7] * 3 + [0.49] * 3 + [0.343] * 3
GATED = range(3, 12)


def record_of(state):
    return PassRecord.of(state, state.patches)


def deit_block(embed_dim):
    return Block(embed_dim, num_heads=3, mlp_ratio=4.0, drop_path_rate=0.0)


def executed(trunk, images):
    """The record of a forward pass and the multiply-adds that really ran in it."""
    states = []
    with torch.no_grad():
        counted = count_macs(lambda: states.append(trunk(images)))
    return record_of(states[0]), counted


@pytest.fixture
def svit(make_policy):
    """Factory: SViT with three gates."""

    def make(**changes):
        return make_policy(
            "SViT",
            **{"layers": (3, 4, 6), "keep_ratios": (0.7, 0.5, 0.3), "mode": "quota", **changes},
        )

    return make


# ------------------------------------------------------------------ published figures


@pytest.mark.parametrize(("embed_dim", "gmacs"), [(192, 1.254), (384, 4.599)])
def test_deit_at_224(embed_dim, gmacs):
    # 196 patches and the class token through 12 blocks, patch embedding, and the head on one token.
    blocks = 12 * deit_block(embed_dim).macs(197)
    total = blocks + 196 * 768 * embed_dim + 1000 * embed_dim
    assert total / 1e9 == pytest.approx(gmacs, abs=5e-4)


@pytest.mark.parametrize(("embed_dim", "gmacs"), [(192, 0.79), (384, 2.95)])
def test_svit_targets_at_224(embed_dim, gmacs):
    # The same with the class token always in, and nine gates on the 196 patches.
    block = deit_block(embed_dim)
    blocks = sum(block.macs(196 * share + 1) for share in KEEP)
    gates = 9 * TokenGate(embed_dim).macs(196)
    total = blocks + gates + 196 * 768 * embed_dim + 1000 * embed_dim
    assert total / 1e9 == pytest.approx(gmacs, abs=5e-3)


@pytest.mark.parametrize(
    ("embed_dim", "dense", "pruned"), [(192, 103.6, 52.0), (384, 251.8, 133.0)]
)
def test_blocks_at_800_by_1344(tiny_trunk, embed_dim, dense, pruned):
    # 4,200 tokens, no class token, no patch embedding; the pruned figure includes the gates.
    trunk = tiny_trunk(embed_dim=embed_dim)
    for block in trunk.blocks:  # the fixture's MLP is half as wide as DeiT's
        block.mlp.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        block.mlp.fc2 = nn.Linear(4 * embed_dim, embed_dim)
    blocks = []
    for layer, share in enumerate(KEEP):
        count = round(4200 * share)
        keep = torch.arange(4200).unsqueeze(0) < count
        macs = TokenGate(embed_dim).macs(4200) if layer in GATED else 0
        selection, rows = Selection(keep=keep, macs=macs), RowCounts((count,), (count,), (count,))
        blocks.append(BlockRecord(selection, keep, keep, keep, rows, size=4200))
    grid = TokenGrid.of_tokens(50, 84)
    macs = trunk_macs(trunk, PassRecord(tuple(blocks), grid, {}, torch.zeros(1, 4200, 1)))
    assert macs.dense_stack / 1e9 == pytest.approx(dense, abs=0.05)
    assert macs.stack.item() / 1e9 == pytest.approx(pruned, abs=0.05)
    assert macs.bound == pytest.approx(dense / pruned, abs=2e-3)


# ------------------------------------------------------------------ by hand


def test_a_block_by_hand():
    # 3 keys and queries and 2 rows in the MLP, of 2 channels: qkv 3*2*6, projection 3*2*2, scores
    # and mix 2*3*3*2; MLP 2 * 2*2*8.
    block = Block(2, num_heads=1, mlp_ratio=4.0, drop_path_rate=0.0)
    assert block.macs(3, 3, 2) == 36 + 12 + 36 + 64
    assert block.macs(3) == block.macs(3, 3, 3)


def test_rows_that_do_not_attend_are_saved():
    # 3 keys, 2 queries, 2 channels: keys and values 2*3*4, queries and projection 2*2*4,
    # scores and mix 2*2*3*2; MLP of 2 tokens.
    block = Block(2, num_heads=1, mlp_ratio=4.0, drop_path_rate=0.0)
    assert block.macs(3, 2, 2) == 24 + 16 + 24 + 64


def test_heads_that_are_skipped_are_saved():
    # 5 keys, 4 queries and two of three heads of 8 channels, 16 in all: keys and values 2*5*24*16,
    # queries and projection 2*4*24*16, scores and mix 2*4*5*16.
    attention = Attention(24, 3)
    assert attention.macs(5, 4, 2) == 3840 + 3072 + 640
    assert attention.macs(5, 4, 3) == attention.macs(5, 4)
    assert attention.macs(5, 4, 0) == 0


def test_the_class_row_by_hand():
    # 5 keys of 24 channels, and a query of its own: 24 * 24.
    attention = Attention(24, 3)
    assert attention.class_row_macs(5, own_query=False) == 5 * 24
    assert attention.class_row_macs(5, own_query=True) == 5 * 24 + 24 * 24


# ------------------------------------------------------------------ the record against what ran


def test_dense_trunk_is_counted_exactly(tiny_trunk, images):
    trunk = tiny_trunk()
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert macs.total.tolist() == [counted.total // 2] * 2
    assert macs.dense_total == counted.total // 2
    assert macs.bound == 1


@pytest.mark.parametrize("batch", [1, 2])
def test_quota_is_counted_exactly(tiny_trunk, images, svit, batch):
    trunk = tiny_trunk(svit())
    record, counted = executed(trunk, images(batch))
    macs = trunk_macs(trunk, record)
    assert macs.total.sum() == counted.total
    assert macs.bound < macs.bound_of_blocks
    assert macs.decisions.nonzero().flatten().tolist() == [3, 4, 6]
    assert record.counts()[0, [3, 4, 6]].tolist() == [10, 8, 4]


def test_different_counts_per_image_are_counted_exactly(tiny_trunk, images, svit):
    trunk = tiny_trunk(svit(mode="argmax"))
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert macs.total[0] != macs.total[1]
    assert macs.total.sum() == counted.total


def test_an_image_without_tokens_costs_its_decision_only(tiny_trunk, images, scripted):
    nobody = torch.zeros(2, 15, dtype=torch.bool)
    only_second = nobody.clone()
    only_second[1, :4] = True
    trunk = tiny_trunk(scripted([Selection(keep=nobody), Selection(keep=only_second)]), depth=2)
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert macs.blocks[:, 0].tolist() == [0, 0] and macs.blocks[0, 1] == 0
    assert macs.total.sum() == counted.total


def test_masked_execution_runs_everyone(tiny_trunk, images, svit):
    trunk = tiny_trunk(svit()).train()
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert int(macs.blocks.sum()) == 2 * macs.dense_stack
    assert macs.total.sum() == counted.total


def test_rows_that_fill_up_count(tiny_trunk, images, svit):
    trunk = tiny_trunk(svit(mode="argmax"), execution=Execution(Padded(12)))
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert macs.blocks[0].tolist() == macs.blocks[1].tolist()
    assert macs.total.sum() == counted.total


def test_extra_tokens_count(tiny_trunk, images, class_everyone):
    trunk = tiny_trunk(class_everyone())
    record, counted = executed(trunk, images(2))
    macs = trunk_macs(trunk, record)
    assert macs.total.sum() == counted.total
    # The dense model that it is compared with has the class token too.
    assert macs.dense_total == counted.total // 2 and macs.bound == 1


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_policy_is_counted_exactly(policy, tiny_trunk, images, training):
    """The row that a policy looks at is among it, whatever mode the model is in by then."""
    trunk = tiny_trunk(policy).train(training)
    record, counted = executed(trunk, images(2, (5, 7)))
    macs = trunk_macs(trunk, record)
    assert macs.total.sum() == counted.total
    assert torch.equal(trunk_macs(trunk.train(not training), record).total, macs.total)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("EvoViT", {"representative": True}),
        ("EvoViT", {"representative": True, "stage_wise": True}),
        (
            "EvoViT",
            {
                "representative": True,
                "stage_wise": True,
                "keep_ratios": (0.5, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3),
            },
        ),
        ("EViT", {"fuse": False}),
        ("EViT", {"keep_ratios": (1.0, 0.5, 0.5)}),
    ],
)
def test_their_variants_are_counted_exactly(make_policy, tiny_trunk, images, name, config):
    policy = make_policy(name, **config)
    test_every_policy_is_counted_exactly(policy, tiny_trunk, images, False)


@pytest.mark.parametrize("executor", [Masked(), Padded(0.8)], ids=repr)
@pytest.mark.parametrize("name", ["ATS", "EViT", "SomeParts"])
def test_other_executors_are_counted_exactly(make_policy, tiny_trunk, images, name, executor):
    trunk = tiny_trunk(make_policy(name), execution=Execution(executor))
    record, counted = executed(trunk, images(2, (5, 7)))
    assert trunk_macs(trunk, record).total.sum() == counted.total


def parts(heads, attend=None, feed=None):
    """Heads of each image typed out; sub-layers run unless typed out too."""
    images = len(heads)
    attend, feed = ([1] * images if each is None else each for each in (attend, feed))
    return BlockParts(*(torch.tensor(each).bool() for each in (attend, feed, heads)))


class Looking(TokenPolicy):
    """Some heads in each block, and a look at all of them beforehand or afterwards."""

    needs_class_token = True

    def __init__(self, said, *, before):
        super().__init__()
        self.said, self.before = said, before

    def before_block(self, view, state):
        keep = torch.arange(15).expand(len(state.tokens), 15) < 9
        return state, Selection(keep=keep, parts=self.said)

    def before_attention(self, view, state, selection):
        if self.before:
            view.value_norms(), view.class_attention()
        return state, selection

    def after_attention(self, view, state, selection):
        if not self.before:
            view.value_norms(), view.class_attention()
        return state, selection


HEADS = [
    [[1, 0, 1]],
    [[0, 0, 0]],
    [[1, 1, 1]],
    [[1, 0, 0], [1, 0, 0]],
    [[1, 0, 0], [0, 1, 0]],
    [[0, 0, 0], [0, 1, 0]],
]


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_skipped_heads_are_counted_exactly(tiny_trunk, images, scripted, heads):
    keep = torch.arange(15).expand(len(heads), 15) < torch.tensor([9, 4])[: len(heads), None]
    trunk = tiny_trunk(scripted([Selection(keep=keep, parts=parts(heads))] * 2), depth=2)
    record, counted = executed(trunk, images(len(heads)))
    macs = trunk_macs(trunk, record)
    assert macs.total.sum() == counted.total
    run = int(torch.tensor(heads).any(dim=0).sum())
    attention, mlp = trunk.block(0).attn.macs(9, 9), trunk.block(0).mlp.macs(9)
    assert macs.blocks[0].tolist() == [attention * run // 3 + mlp] * 2


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_so_are_they_where_a_policy_looks_at_all(tiny_trunk, images, heads, before):
    attend = [1] if len(heads) == 1 else [0, 1]
    trunk = tiny_trunk(Looking(parts(heads, attend=attend), before=before), depth=2)
    record, counted = executed(trunk, images(len(heads)))
    assert trunk_macs(trunk, record).total.sum() == counted.total


@pytest.mark.parametrize("name", ["AdaViT", "SomeParts"])
def test_one_image_alone_costs_less_for_each_head_that_it_skips(
    make_policy, tiny_trunk, images, name
):
    trunk = tiny_trunk(make_policy(name))
    batch = images(3, (5, 7))
    skipped = 0
    for image in range(3):
        record, counted = executed(trunk, batch[image : image + 1])
        macs = trunk_macs(trunk, record)
        assert macs.total.sum() == counted.total
        skipped += sum(block.heads in (0, 1, 2) for block in record.blocks if sum(block.rows.keys))
        trunk.execution = Execution(Masked())
        whole = trunk_macs(trunk, executed(trunk, batch[image : image + 1])[0])
        assert macs.total < whole.total
        trunk.execution = Execution()
    assert skipped > 0


# ------------------------------------------------------------------ count_macs on anything


def test_fused_attention_on_a_cpu_is_counted():
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    by_hand = 2 * 3 * 5 * 7 * (8 + 8)
    assert count_macs(lambda: F.scaled_dot_product_attention(query, key, key)).total == by_hand
    masked = count_macs(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask))
    assert masked.total == by_hand


def test_a_product_that_is_added_in_place_is_counted():
    """(3, 4) += (3, 5) @ (5, 4)."""
    total, left, right = torch.zeros(3, 4), torch.rand(3, 5), torch.rand(5, 4)
    assert count_macs(lambda: total.addmm_(left, right)).total == 3 * 5 * 4
    assert count_macs(lambda: torch.addmm(total, left, right)).total == 3 * 5 * 4


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
