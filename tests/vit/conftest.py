"""One block, states of two images on a 2 x 3 grid, and the block's sums written down once more."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from svit_det.policies import TokenPolicy
from svit_det.tokens import TokenGrid, TokenState
from svit_det.vit import Execution
from svit_det.vit.execution import run_block


@pytest.fixture
def block(tiny_trunk):
    """One block of 24 channels and 3 heads."""
    return tiny_trunk(depth=1).blocks[0]


@pytest.fixture
def a_state():
    """Factory: two images of a 2 x 3 grid, the first extra token a class token."""

    def make(num_extra=0, *, batch=2, width=24, **fields):
        return TokenState(
            tokens=torch.randn(batch, num_extra + 6, width),
            num_extra=num_extra,
            grid=TokenGrid.of_tokens(2, 3),
            class_token=num_extra > 0,
            **fields,
        )

    return make


@pytest.fixture
def run(block, scripted):
    """Run the one block under a policy or a typed-out selection."""

    def run(state, policy, execution=None, *, last=True):
        if not isinstance(policy, TokenPolicy):
            policy = scripted([policy])
        execution = execution or Execution()
        return run_block(block, policy, state, layer=0, last=last, execution=execution)

    return run


@dataclass(frozen=True)
class ByHand:
    """A block on the rows (T, C) of one image, by its modules' weights alone."""

    block: nn.Module

    def weights(self, rows, queries=None):
        """(h, T', T) the softmax; `queries` (T',) are the rows that attend, all by default."""
        query, key, _ = self.projected(rows)
        query = query if queries is None else query[queries]
        logits = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
        return logits.softmax(dim=-1)

    def projected(self, rows):
        """Queries, keys and values, each (T, h, d)."""
        heads = self.block.attn.num_heads
        return self.block.attn.qkv(self.block.norm1(rows)).unflatten(1, (3, heads, -1)).unbind(1)

    def branch(self, rows, queries=None, heads=None):
        """(T', C) what the attention adds; `heads` (h,) multiply the heads' outputs."""
        mixed = torch.einsum("hqk,khd->qhd", self.weights(rows, queries), self.projected(rows)[2])
        if heads is not None:
            mixed = mixed * heads[:, None]
        return self.block.attn.proj(mixed.flatten(1))

    def attended(self, rows, heads=None):
        """After the attention."""
        return rows + self.branch(rows, heads=heads) if len(rows) else rows

    def fed(self, rows):
        """After the MLP alone."""
        return rows + self.block.mlp(self.block.norm2(rows))

    def finished(self, rows):
        """After the block."""
        return self.fed(self.attended(rows))


@pytest.fixture
def by_hand(block):
    """The one block's sums, without layouts and executors."""
    return ByHand(block)
