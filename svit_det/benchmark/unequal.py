"""Ways to run a batch whose images keep different numbers of tokens.

B images, S tokens of the buffer, C channels, h heads, T rows of all images together.

All ways give the same values. `packed` is this project's way: the rows of all images form one
sequence, and only the attention treats each image alone. `nested` is the way of SViT's paper
(supplementary, part B): whole blocks on strided nested tensors. `padded` fills every image up to
the longest image of its batch and hides the added rows by a key mask. `one_by_one` runs the images
of a batch alone, in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.benchmark.arms import trunk_of, with_policy
from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.tokens import BlockRecord, RowCounts, Selection, TokenState
from svit_det.vit import Execution, Padded, TokenTrunk, find_token_net
from svit_det.vit.layers import Block
from svit_det.vit.layout import Layout, Rows
from svit_det.vit.view import BlockInProgress

Run = Callable[[Tensor], Any]
WAYS = ("packed", "nested", "padded", "one_by_one")


def run_in(way: str, model: nn.Module) -> Run:
    """A pass of `model` over (B, 3, height, width) images, in one of `WAYS`.

    The weights are those of `model`. Raises InputError where its policy cannot run in this way.
    """
    if way == "packed":
        return model
    if way == "one_by_one":
        return lambda images: [model(image) for image in images.split(1)]
    twin = with_policy(model, trunk_of(model).policy)
    if way == "padded":
        trunk_of(twin).execution = Execution(hard=ToLongest())
        return twin
    _refuse_other_hooks(trunk_of(model).policy)
    find_token_net(twin).trunk = NestedTrunk.of(trunk_of(twin))
    return twin


@dataclass(frozen=True)
class ToLongest:
    """An executor: every image has as many rows as the longest image of its batch.

    The device is asked for this number.
    """

    blends: ClassVar[bool] = False

    def enter(self, layer: int, state: TokenState, selection: Selection) -> Rows:
        """As `Padded`, with exactly the room that the longest image needs."""
        counts = selection.mask(state.presence()).sum(dim=1)
        room = max(int(counts.max()), state.num_extra, 1)
        return Padded(capacity=room).enter(layer, state, selection)


class NestedTrunk(TokenTrunk):
    """A trunk whose blocks run on strided nested tensors, as in the supplementary's part B.

    This is for inference, and for policies that decide only before a block.
    """

    @classmethod
    def of(cls, trunk: TokenTrunk) -> NestedTrunk:
        """A trunk with the same modules and weights that runs on nested tensors."""
        nested = cls.__new__(cls)
        nested.__dict__.update(trunk.__dict__)
        return nested

    def run(self, state: TokenState, start: int, stop: int) -> TokenState:
        """Run blocks `start` (included) to `stop` (excluded)."""
        for layer in range(start, stop):
            state = self._run_block(state, layer)
        return state

    def _run_block(self, state: TokenState, layer: int) -> TokenState:
        block = self.block(layer)
        view = BlockInProgress(block, layer=layer, last=layer == self.depth - 1)
        state, selection = self.policy.before_block(view, state)
        mask = selection.mask(state.presence()).flatten()
        num_images, size = state.tokens.shape[:2]
        lengths = tuple(mask.view(num_images, size).sum(dim=1).tolist())
        index = torch.nonzero_static(mask, size=sum(lengths)).squeeze(1)
        rows = Rows(Layout(lengths, None, index=index), selection)
        new = run_nested(block, rows.gather(state.tokens), lengths)
        record = BlockRecord(
            selection=selection,
            keys=selection.keep,
            queries=selection.keep,
            mlp=selection.keep,
            rows=RowCounts(lengths, lengths, lengths),
            size=size,
        )
        tokens = rows.scatter(state.tokens, new)
        return replace(state, tokens=tokens, history=(*state.history, record))


def run_nested(block: Block, rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """(T, C) rows -> (T, C): one block on a nested tensor of images.

    Images without rows are left out: attention is undefined for nested tensors without an entry,
    and for entries without a row.
    """
    images = [image for image in rows.split(list(lengths)) if len(image)]
    if not images:
        return rows
    with warnings.catch_warnings():  # torch warns that this layout is a prototype
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors", UserWarning)
        tokens = torch.nested.as_nested_tensor(images, layout=torch.strided)
    attention, count = block.attn, len(images)
    qkv = F.linear(block.norm1(tokens), attention.qkv.weight, attention.qkv.bias)
    heads = [
        part.contiguous()
        .view(count, -1, attention.num_heads, attention.head_dim)
        .transpose(1, 2)
        .contiguous()
        for part in qkv.chunk(3, dim=-1)
    ]
    attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).contiguous()
    attended = attended.view(count, -1, attention.num_heads * attention.head_dim)
    tokens = tokens + F.linear(attended, attention.proj.weight, attention.proj.bias)
    tokens = tokens + block.mlp(block.norm2(tokens))
    return torch.cat(tokens.unbind())


def _refuse_other_hooks(policy: TokenPolicy) -> None:
    """Raise InputError for a policy that does more than decide before a block."""
    for hook in ("before_attention", "after_attention", "after_block"):
        if getattr(type(policy), hook) is not getattr(TokenPolicy, hook):
            raise InputError(
                f"{type(policy).__name__} does something in {hook}, which blocks on nested tensors "
                "do not have; leave the way 'nested' out."
            )
