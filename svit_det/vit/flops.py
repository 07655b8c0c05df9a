"""Multiply-adds: of a trunk from the record of a pass, and of any function by watching it run.

B images, N patch tokens, L blocks. Papers on vision transformers call one multiply-add a FLOP;
torch's own counter counts it as two. Only matrix products and convolutions are counted: norms,
softmax, activations, residuals, and the moving of rows are not. Each layer has a method `macs` for
its own cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from svit_det.tokens import BlockRecord, PassRecord
from svit_det.vit.layers import Block
from svit_det.vit.trunk import TokenTrunk


@dataclass(frozen=True)
class TrunkMacs:
    """Multiply-adds of one forward pass of a trunk, image by image."""

    embedding: int
    """The patch embedding of one image."""
    blocks: Tensor
    """(B, L) int64: what each block spent on each image."""
    decisions: Tensor
    """(L,) int64: the cost of deciding which tokens block l keeps, for one image."""
    dense_block: int
    """One block with every token of one image."""

    @property
    def stack(self) -> Tensor:
        """(B,): all blocks and decisions, without the patch embedding."""
        return self.blocks.sum(dim=1) + self.decisions.sum()

    @property
    def total(self) -> Tensor:
        """(B,): the whole trunk."""
        return self.embedding + self.stack

    @property
    def dense_stack(self) -> int:
        """All blocks with every token of one image."""
        return self.blocks.shape[1] * self.dense_block

    @property
    def dense_total(self) -> int:
        """The whole trunk with every token of one image."""
        return self.embedding + self.dense_stack

    @property
    def bound(self) -> float:
        """Multiply-adds of the dense block stack over those of this pass: the highest speed-up."""
        return self.dense_stack * len(self.blocks) / max(int(self.stack.sum()), 1)

    @property
    def bound_of_blocks(self) -> float:
        """The same quotient without the cost of the decisions."""
        return self.dense_stack * len(self.blocks) / max(int(self.blocks.sum()), 1)


def trunk_macs(trunk: TokenTrunk, record: PassRecord) -> TrunkMacs:
    """Count the forward pass of `trunk` that made `record`. The trunk's present mode is irrelevant.

    Every computed row counts, whether or not its result does. The resizing of the position
    embedding is not counted.
    """
    num_tokens = record.grid.num_tokens
    blocks = [_block_macs(trunk.block(layer), done) for layer, done in enumerate(record.blocks)]
    everyone = num_tokens + int(trunk.cls_token is not None)
    return TrunkMacs(
        embedding=trunk.patch_embed.macs(num_tokens),
        blocks=torch.tensor(blocks).T,
        decisions=torch.tensor([done.selection.macs for done in record.blocks]),
        dense_block=trunk.block(0).macs(everyone),
    )


def _block_macs(block: Block, record: BlockRecord) -> list[int]:
    """Multiply-adds of one block, image by image, with the class attention that the policy saw."""
    counts = []
    for keys, queries, mlp in zip(*record.rows, strict=True):
        macs = block.macs(keys, queries, mlp, heads=record.heads)
        if record.selection.soft_keys is not None:
            # The denominators cost as much as one more channel of each head's values.
            macs += keys * queries * block.attn.num_heads
        if record.looked:
            macs += block.attn.class_row_macs(keys, own_query=record.own_class_query)
        if record.joined:
            served = 0 if record.asked_again else queries
            macs += block.attn.unused_query_macs(keys - served)
        if record.looked_at_all:
            own = record.own_class_query and not record.looked
            macs += block.attn.all_keys_row_macs(record.size, own_query=own)
        if record.keys_again:
            macs += block.attn.macs(keys, 0)
        counts.append(macs)
    return counts


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds of a function that ran."""

    total: int
    by_module: dict[str, int]
    """By dotted names that start with the class of the outermost module. The number of a module
    includes its submodules."""


def flop_counter() -> FlopCounterMode:
    """torch's counter, two FLOPs for each multiply-add, extended by what it would count as zero."""
    return FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED)


def count_macs(run: Callable[[], Any]) -> MacCount:
    """Call `run` and count the matrix products and convolutions that really execute.

    This works for whole detectors. RoIAlign and other custom kernels count as zero.
    """
    counter = flop_counter()
    with counter:
        run()
    macs = {
        name: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    return MacCount(total=counter.get_total_flops() // 2, by_module=macs)


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Shapes (B, h, q, d), (B, h, k, d), (B, h, k, e) -> FLOPs, two for each multiply-add."""
    batch, heads, queries, channels = query
    return 2 * batch * heads * queries * key[2] * (channels + value[3])


def _product_flops(
    total: Sequence[int], left: Sequence[int], right: Sequence[int], *_: Any, **__: Any
) -> int:
    """Shapes (m, n), (m, k), (k, n) -> FLOPs of a product that is added in place."""
    return 2 * left[0] * left[1] * right[1]


# torch's counter knows the fused attention kernels of GPUs and not the CPU's, and `addmm` and not
# `addmm_`.
_ALSO_COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.addmm_: _product_flops,
}
