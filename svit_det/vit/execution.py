"""How a block is run for a selection of tokens: the one place where deciding and executing meet.

B images, N patch tokens, E extra tokens, C channels, T packed tokens of all images together.

Two executors with the same methods. `PackedTokens` really skips: kept rows are gathered, run and
scattered back. `MaskedTokens` computes everyone, hides the skipped from the attention and blends by
the gate: the same values, with a gradient for the decision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.policies.base import TokenPolicy
from svit_det.tokens import ClassAttention, Segments, Selection, TokenState
from svit_det.tokens.packing import (
    PackIndex,
    gather_tokens,
    pack_index,
    scatter_tokens,
)
from svit_det.vit.layers import Block, Queries


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
        if selection.whole and state.present is None:
            return cls(state, None, Segments((num_extra + num_patches,) * num_images))
        index = pack_index(selection.keep, num_extra, state.present)
        return cls(state, index, Segments(index.lengths))

    def rows(self) -> Tensor:
        """(T, C) rows to run."""
        return self._pack(self.entered.patches, self.entered.extra)

    def _pack(self, patches: Tensor, extra: Tensor) -> Tensor:
        if self.index is not None:
            return gather_tokens(patches, extra, self.index)
        if extra.shape[1] == 0:
            return patches.flatten(0, 1)
        return torch.cat([extra, patches], dim=1).flatten(0, 1)

    def narrow(self, state: TokenState, chosen: Selection) -> tuple[PackedTokens, Queries]:
        """Those who go on, as an executor of their own, and where they stand among the rows."""
        fewer = PackedTokens.enter(state, chosen)
        extra = chosen.keep.new_ones(*state.extra.shape[:2], 1)
        on = self._pack(chosen.keep.unsqueeze(-1), extra).squeeze(-1)
        rows = torch.nonzero_static(on, size=sum(fewer.segments.lengths)).squeeze(1)
        return fewer, Queries(rows, fewer.segments.lengths)

    def write_back(self, rows: Tensor) -> TokenState:
        """The state with the rows' new values in their places."""
        state = self.entered
        if self.index is not None:
            patches, extra = scatter_tokens(rows, state.patches, state.extra, self.index)
        else:
            patches, extra = _split(rows.to(state.patches.dtype), state)
        return replace(state, patches=patches, extra=extra)

    def to_grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(T, K) per row -> (B, N, K) per patch, (B, E, K) per extra token; 0 where none ran."""
        if self.index is None:
            return _split(values, self.entered)
        state = self.entered
        patches, extra = (
            values.new_zeros(*tokens.shape[:2], values.shape[1])
            for tokens in (state.patches, state.extra)
        )
        return scatter_tokens(values, patches, extra, self.index)


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
            beside = state.present
            if beside is None:
                beside = keep.new_ones(state.extra.shape[:2])
            keys = torch.cat([beside, keep], dim=1)
        else:
            # An image that keeps nobody would attend to nothing (0 / 0). Its rows may see everyone:
            # the gate, 0 throughout, discards the values and still learns from them.
            keys = keep | ~keep.any(dim=1, keepdim=True)
        return cls(state, selection, Segments((keys.shape[1],) * len(keys), key_mask=keys))

    def rows(self) -> Tensor:
        """(B * (E + N), C): all rows."""
        return torch.cat([self.entered.extra, self.entered.patches], dim=1).flatten(0, 1)

    def narrow(self, state: TokenState, chosen: Selection) -> tuple[MaskedTokens, None]:
        """Those who go on: all rows still run and look at the same keys, the gate is another."""
        return replace(self, entered=state, selection=chosen), None

    def write_back(self, rows: Tensor) -> TokenState:
        """Blend: gate * new + (1 - gate) * old; extra tokens that there are are new."""
        state = self.entered
        patches, extra = _split(rows.to(state.patches.dtype), state)
        if state.present is not None:
            extra = torch.where(state.present.unsqueeze(-1), extra, state.extra)
        gate = self.selection.gate.to(state.patches.dtype).unsqueeze(-1)
        return replace(state, patches=torch.lerp(state.patches, patches, gate), extra=extra)

    def to_grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(T, K) per row -> (B, N, K) per patch, (B, E, K) per extra token; 0 if hidden."""
        seen = self.segments.key_mask.flatten().unsqueeze(1)
        return _split(values * seen, self.entered)


def _split(rows: Tensor, state: TokenState) -> tuple[Tensor, Tensor]:
    """(B * (E + N), K) -> patches (B, N, K), extra (B, E, K)."""
    both = rows.unflatten(0, (len(state.patches), -1))
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
        rows, tokens, going_on = _attend(block, layer, policy, rows, tokens, selection)
        rows = rows + block.drop_path(block.mlp(block.norm2(rows)), tokens.segments)
        processed = tokens.write_back(rows)
    else:
        processed, going_on = entered, selection
    state = policy.after_block(layer, entered, processed, going_on)
    if entered.extra.shape[1]:
        counts = [_count_extra(each) for each in (entered, processed)]
        going_on = replace(going_on, extra_counts=torch.stack(counts, dim=1))
    return replace(state, trace=(*state.trace, going_on))


def _attend(
    block: Block,
    layer: int,
    policy: TokenPolicy,
    rows: Tensor,
    tokens: PackedTokens | MaskedTokens,
    selection: Selection,
) -> tuple[Tensor, PackedTokens | MaskedTokens, Selection]:
    """The attention half of a block, and the policy's say before and after it.

    Returns the rows that go on to the MLP, their executor, and who they are.
    """
    normed = block.norm1(rows)
    segments, key_value, queries, chosen = tokens.segments, None, None, selection
    if layer in policy.score_layers or layer in policy.attention_layers:
        key_value = block.attn.keys_values(normed)
        attention = _class_attention(tokens, *block.attn.class_row(normed, key_value, segments))
    if layer in policy.score_layers:
        state, chosen = policy.before_attention(layer, tokens.entered, selection, attention)
        if chosen.keep is selection.keep:
            tokens = replace(tokens, entered=state)
        else:
            tokens, queries = tokens.narrow(state, chosen)
    branch = block.attn(normed, segments, key_value=key_value, queries=queries)
    if queries is not None:
        rows = rows[queries.rows]
    rows = rows + block.drop_path(branch, tokens.segments)
    if layer in policy.attention_layers:
        state, chosen = policy.after_attention(
            layer, tokens.entered, tokens.write_back(rows), selection, attention
        )
        tokens = enter(state, chosen)
        rows = tokens.rows()
    if chosen.keep is not selection.keep:
        chosen = replace(chosen, entered=selection.keep)
    return rows, tokens, chosen


def _class_attention(
    tokens: PackedTokens | MaskedTokens, weights: Tensor, value_norm: Tensor
) -> ClassAttention:
    """(h, T) weights and (T,) norms by row -> the class token's view in grid coordinates."""
    patches, extra = tokens.to_grid(torch.cat([weights, value_norm.unsqueeze(0)]).T)
    return ClassAttention(
        weights=patches[..., :-1].transpose(1, 2),
        extra_weights=extra[..., :-1].transpose(1, 2),
        value_norm=patches[..., -1],
    )


def _count_extra(state: TokenState) -> Tensor:
    """(B,) int64: tokens off the grid."""
    if state.present is not None:
        return state.present.sum(dim=1)
    num_images, num_extra = state.extra.shape[:2]
    return torch.full((num_images,), num_extra, device=state.patches.device)
