"""Multiply-adds: of a trunk from its trace, and of anything by watching it run.

B images, N patch tokens, E extra tokens, C channels, L blocks. One multiply-add is what papers on
vision transformers call a FLOP; torch's own counter counts it as two. Only matrix products and
convolutions are counted: norms, softmax, activations, residuals, and the moving of rows are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from svit_det.tokens import TokenTrace
from svit_det.vit.trunk import TokenTrunk

Count = TypeVar("Count", int, Tensor)


def block_macs(
    attended: Count,
    mlp: Count,
    asking: Count | None = None,
    *,
    embed_dim: int,
    mlp_ratio: float = 4.0,
) -> Count:
    """Of one block: n `attended` tokens in its attention, q of them `asking`, m in its MLP.

    2 n C^2 for keys and values, 2 q C^2 for queries and projection, 2 q n C for the two products
    with the attention matrix, 2 r m C^2 for an MLP of r C hidden channels. Default: all ask.
    """
    asking = attended if asking is None else asking
    projections = 2 * (attended + asking) * embed_dim**2
    products = 2 * asking * attended * embed_dim
    return projections + products + 2 * mlp * embed_dim * int(embed_dim * mlp_ratio)


@dataclass(frozen=True)
class TrunkMacs:
    """Multiply-adds of one forward pass of a trunk, image by image."""

    embedding: int
    """The patch embedding of one image."""
    blocks: Tensor
    """(B, L) int64: what each block spent on each image."""
    decisions: Tensor
    """(L,) int64: what deciding who enters block l costs, for one image."""
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
        """How many times faster than dense the block stack can get: arithmetic only."""
        return self.dense_stack * len(self.blocks) / max(int(self.stack.sum()), 1)

    @property
    def bound_of_blocks(self) -> float:
        """The same with decisions that cost nothing."""
        return self.dense_stack * len(self.blocks) / max(int(self.blocks.sum()), 1)


def trunk_macs(trunk: TokenTrunk, trace: TokenTrace) -> TrunkMacs:
    """Count the forward pass of `trunk` that left `trace`.

    Where a gate blends (training), every token ran, whatever the gate says. Not counted: resizing
    the position embedding.
    """
    num_tokens = trace.grid[0] * trace.grid[1]
    embed_dim = trunk.embed_dim
    mlp_ratio = trunk.blocks[0].mlp.fc1.out_features / embed_dim
    blended = torch.tensor([selection.gate is not None for selection in trace.selections])
    extra = trace.extra_counts().cpu()
    attended, mlp = (
        counts.cpu().masked_fill(blended, num_tokens) + extra[..., part]
        for part, counts in enumerate((trace.attention_counts(), trace.counts()))
    )
    policy = trunk.policy
    asking = attended.clone()
    for layer in policy.score_layers:
        asking[:, layer] = mlp[:, layer]
    blocks = block_macs(attended, mlp, asking, embed_dim=embed_dim, mlp_ratio=mlp_ratio)
    for layer in policy.score_layers | policy.attention_layers:
        # The class token's query and row of attention, once more, for the policy to look at.
        blocks[:, layer] += embed_dim**2 + attended[:, layer] * embed_dim
    decisions = torch.zeros(len(trace.selections), dtype=torch.int64)
    for layer, macs in policy.decision_macs(num_tokens).items():
        decisions[layer] = macs
    everyone = num_tokens + int(policy.needs_class_token)
    return TrunkMacs(
        embedding=num_tokens * trunk.patch_embed.proj.weight.numel(),
        blocks=blocks,
        decisions=decisions,
        dense_block=block_macs(everyone, everyone, embed_dim=embed_dim, mlp_ratio=mlp_ratio),
    )


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds of whatever ran."""

    total: int
    by_module: dict[str, int]
    """Dotted names, starting with the class of the outermost module; each includes its parts."""


def count_macs(run: Callable[[], Any]) -> MacCount:
    """Call `run` and count the matrix products and convolutions that really execute.

    Serves for whole detectors. RoIAlign and other custom kernels count as zero.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
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
    """Shapes (B, h, q, d), (B, h, k, d), (B, h, k, e) -> two per multiply-add."""
    batch, heads, queries, channels = query
    return 2 * batch * heads * queries * key[2] * (channels + value[3])


# torch's counter knows the fused attention kernels of GPUs; that of CPUs would count as nothing.
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
