"""How a block is run for a selection of tokens: the one place where deciding and executing meet.

B images, N patch tokens, E extra tokens, C channels, T packed tokens of all images together.

Two executors with the same three methods. `PackedTokens` really skips: kept rows are gathered, run
and scattered back. `MaskedTokens` computes everyone, hides the skipped from the attention and
blends by the gate: the same values, with a gradient for the decision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.policies.base import TokenPolicy
from svit_det.tokens import ClassAttention, Segments, Selection, TokenState
from svit_det.tokens.packing import PackIndex, gather_tokens, pack_index, scatter_tokens
from svit_det.vit.layers import Block


@dataclass(frozen=True)
class PackedTokens:
    """The rows that really run. `index` None: everyone runs, and nothing has to be moved."""

    entered: TokenState
    index: PackIndex | None
    segments: Segments

    @classmethod
    def enter(cls, state: TokenState, selection: Selection) -> PackedTokens:
        """Ask which rows run; the one question to the device, none where everyone runs."""
        num_images, num_patches = state.patches.shape[:2]
        num_extra = state.extra.shape[1]
        if selection.whole:
            return cls(state, None, Segments((num_extra + num_patches,) * num_images))
        index = pack_index(selection.keep)
        return cls(state, index, Segments(tuple(num_extra + count for count in index.counts)))

    def rows(self) -> Tensor:
        """(T, C) rows to run."""
        state = self.entered
        if self.index is not None:
            return gather_tokens(state.patches, state.extra, self.index)
        if state.extra.shape[1] == 0:
            return state.patches.flatten(0, 1)
        return torch.cat([state.extra, state.patches], dim=1).flatten(0, 1)

    def write_back(self, rows: Tensor) -> TokenState:
        """The state with the rows' new values in their places."""
        state = self.entered
        if self.index is not None:
            patches, extra = scatter_tokens(rows, state.patches, state.extra, self.index)
        else:
            patches, extra = _split(rows, state)
        return replace(state, patches=patches, extra=extra)

    def to_grid(self, values: Tensor) -> Tensor:
        """(..., T) per row -> (B, ..., N) per patch token, 0 for those that did not run."""
        num_patches = self.entered.patches.shape[1]
        num_extra = self.entered.extra.shape[1]
        images = []
        for image, row in enumerate(values.split(self.segments.lengths, dim=-1)):
            patches = row[..., num_extra:]
            if self.index is not None:
                where = self.index.rows.split(self.index.counts)[image] - image * num_patches
                patches = patches.new_zeros(*row.shape[:-1], num_patches).index_copy(
                    -1, where, patches
                )
            images.append(patches)
        return torch.stack(images)


@dataclass(frozen=True)
class MaskedTokens:
    """All rows run; `gate` says whose result counts."""

    entered: TokenState
    selection: Selection
    segments: Segments

    @classmethod
    def enter(cls, state: TokenState, selection: Selection) -> MaskedTokens:
        """Hide the skipped tokens from the attention."""
        keep = selection.keep
        if state.extra.shape[1]:
            always = keep.new_ones(state.extra.shape[:2])
            keys = torch.cat([always, keep], dim=1)
        else:
            # An image that keeps nobody would attend to nothing (0 / 0). Its rows may see everyone:
            # the gate, 0 throughout, discards the values and still learns from them.
            keys = keep | ~keep.any(dim=1, keepdim=True)
        return cls(state, selection, Segments((keys.shape[1],) * len(keys), key_mask=keys))

    def rows(self) -> Tensor:
        """(B * (E + N), C): all rows."""
        return torch.cat([self.entered.extra, self.entered.patches], dim=1).flatten(0, 1)

    def write_back(self, rows: Tensor) -> TokenState:
        """Blend: gate * new + (1 - gate) * old; extra tokens are always new."""
        state = self.entered
        patches, extra = _split(rows, state)
        gate = self.selection.gate.to(state.patches.dtype).unsqueeze(-1)
        return replace(state, patches=torch.lerp(state.patches, patches, gate), extra=extra)

    def to_grid(self, values: Tensor) -> Tensor:
        """(..., T) per row -> (B, ..., N) per patch token, 0 for those that were hidden."""
        num_images = len(self.segments.lengths)
        grid = values.unflatten(-1, (num_images, -1))[..., self.entered.extra.shape[1] :]
        grid = grid.movedim(-2, 0)
        keep = self.selection.keep
        return grid * keep.reshape(num_images, *[1] * (grid.dim() - 2), -1)


def _split(rows: Tensor, state: TokenState) -> tuple[Tensor, Tensor]:
    """(B * (E + N), C) -> patches (B, N, C), extra (B, E, C), in the dtype they came in."""
    both = rows.to(state.patches.dtype).unflatten(0, (len(state.patches), -1))
    num_extra = state.extra.shape[1]
    return both[:, num_extra:], both[:, :num_extra]


def enter(state: TokenState, selection: Selection) -> PackedTokens | MaskedTokens:
    """The selection picks the execution: with a gate masked, without one packed."""
    executor = PackedTokens if selection.gate is None else MaskedTokens
    return executor.enter(state, selection)


def run_block(block: Block, layer: int, policy: TokenPolicy, state: TokenState) -> TokenState:
    """Run one block for the tokens that `policy` selects; the others are as they were."""
    entered, selection = policy.before_block(layer, state)
    tokens = enter(entered, selection)
    rows = tokens.rows()
    if len(rows):
        asked = layer in policy.attention_layers
        branch, looked_at = block.attn(block.norm1(rows), tokens.segments, class_row=asked)
        rows = rows + block.drop_path(branch, tokens.segments)
        if asked:
            tokens, selection = _ask_again(layer, policy, tokens, rows, selection, looked_at)
            rows = tokens.rows()
        rows = rows + block.drop_path(block.mlp(block.norm2(rows)), tokens.segments)
        processed = tokens.write_back(rows)
    else:
        processed = entered
    state = policy.after_block(layer, entered, processed, selection)
    return replace(state, trace=(*state.trace, selection))


def _ask_again(
    layer: int,
    policy: TokenPolicy,
    tokens: PackedTokens | MaskedTokens,
    rows: Tensor,
    selection: Selection,
    looked_at: tuple[Tensor, Tensor],
) -> tuple[PackedTokens | MaskedTokens, Selection]:
    """Hand the class token's attention to the policy; pack those who go on to the MLP."""
    attention = ClassAttention(*(tokens.to_grid(values) for values in looked_at))
    state, chosen = policy.after_attention(
        layer, tokens.entered, tokens.write_back(rows), selection, attention
    )
    return enter(state, chosen), replace(chosen, entered=selection.keep)
