"""BlockInProgress: what a policy may look at while a block runs, computed when the policy asks.

B images, N patch tokens, S = E + N tokens of the buffer, T rows, C channels, h heads, d = C / h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.tokens import BlockParts, ClassAttention, TokenState, everyone
from svit_det.vit.layers import Block
from svit_det.vit.layout import Layout, Rows

JOINED_MACS = 12_000_000
"""Up to so many multiply-adds, a CPU computes the queries of all keys sooner than one more linear
layer and one more norm for the rows that attend. `python benchmarks/by_hand.py joined` measures
both on another machine."""

_NO_KEY = "A row attends that is no key; before_attention may only narrow the selection."


@dataclass(frozen=True)
class _Keys:
    """The rows that are keys."""

    state: TokenState
    rows: Rows
    normed: Tensor
    """(T, C) after the block's first norm."""


class BlockInProgress:
    """The `BlockView` of one block on one batch. It lives as long as the block runs.

    `run_block` fills in the view while the block runs. A policy that asks too early gets a
    RuntimeError.
    """

    candidates: Tensor | None = None

    def __init__(self, block: Block, *, layer: int, last: bool) -> None:
        self.layer = layer
        self.last = last
        self.looked = False
        self.own_class_query = False
        self.keys_again = False
        self.looked_at_all = False
        self.joined = False
        self.heads: int | None = None
        self._block = block
        self._all_normed: tuple[Tensor, Tensor] | None = None
        self._keys: _Keys | None = None
        self._key_value: tuple[Tensor, Tensor] | None = None
        self._every_query: Tensor | None = None
        self._class_query: Tensor | None = None
        self._class_attention: ClassAttention | None = None
        self._attended: tuple[TokenState, Rows, Tensor] | None = None
        self._written: TokenState | None = None

    # ------------------------------------------------------------------ what a policy asks

    def normed(self, state: TokenState) -> Tensor:
        """(B, N, C) the patch tokens after the block's first norm."""
        return self._every_normed(state)[:, state.num_extra :]

    def class_attention(self) -> ClassAttention:
        """What the class token attends to. Ask from `before_attention` to `after_attention`."""
        keys = self._with_class_token()
        if self._class_attention is not None:
            return self._class_attention
        self.looked = True
        key, _ = self._project_keys()
        weights = self._block.attn.class_row(self._ask_class(keys), key, keys.rows.layout)
        spread = keys.rows.spread(weights, keys.state.tokens.shape[1])
        num_extra = keys.state.num_extra
        self._class_attention = ClassAttention(
            weights=spread[..., num_extra:], extra_weights=spread[..., :num_extra]
        )
        return self._class_attention

    def class_attention_to_all(self) -> ClassAttention:
        """What the class token would attend to if every token were a key.

        The keys of all tokens are projected for this alone.
        """
        keys = self._with_class_token()
        state, attn = keys.state, self._block.attn
        self.looked_at_all = True
        key = attn.project(self._every_normed(state).flatten(0, 1), 1, 2)[:, 0]
        num_images, size = state.tokens.shape[:2]
        there = None if state.present is None else everyone(state).mask(state.present)
        layout = Layout((size,) * num_images, (num_images, size), key_mask=there)
        weights = attn.class_row(self._ask_class(keys), key, layout)
        weights = weights.unflatten(1, (num_images, size)).transpose(0, 1)
        num_extra = state.num_extra
        return ClassAttention(weights[..., num_extra:], weights[..., :num_extra])

    def value_norms(self) -> Tensor:
        """(B, N) L2 norm of each patch token's value, all heads together; 0 if it is no key."""
        keys = self._opened()
        _, value = self._project_keys()
        norms = value.float().flatten(1).norm(dim=1)
        spread = keys.rows.spread(norms.unsqueeze(0), keys.state.tokens.shape[1])
        return spread[:, 0, keys.state.num_extra :]

    def attended(self) -> TokenState:
        """The state after the attention. Ask in `after_attention`."""
        if self._attended is None:
            raise RuntimeError("The attention has not run yet: ask in after_attention.")
        if self._written is None:
            state, rows, new = self._attended
            self._written = replace(state, tokens=rows.scatter(state.tokens, new))
        return self._written

    # ------------------------------------------------------------------ what run_block tells

    def open(self, state: TokenState, rows: Rows, tokens: Tensor) -> None:
        """Take the rows that are keys, and norm their values (T, C) once."""
        if self._all_normed is not None and self._all_normed[0] is state.tokens:
            normed = rows.gather(self._all_normed[1])
        else:
            normed = self._block.norm1(tokens)
        self._keys = _Keys(state, rows, normed)

    def attend(self, queries: Rows, tokens: Tensor) -> Tensor:
        """(T', C) the attention's branch for the rows `queries` with the values `tokens`.

        Heads that no image runs are not computed, where the device may be asked for them. In a
        batch of several images the other heads are computed for all and multiplied by the choice.
        """
        attn, keys = self._block.attn, self._opened()
        parts, heads, channels = queries.selection.parts, None, None
        if parts is not None:
            heads, some = parts.heads, self._heads_run(parts, queries.layout)
            if some is not None:
                self.heads = len(some)
                if self.heads == 0:
                    return attn.proj.bias.expand(queries.layout.num_rows, -1)
                heads = heads[:, some] if len(heads) > 1 else None
                channels = attn.channels_of(some) if self.heads < attn.num_heads else None
        every = queries.layout.index is None and keys.rows.layout.index is None
        alike = queries is keys.rows or every
        if self._key_value is None and alike:
            query, key, value = attn.project(keys.normed, 0, 3, channels).unbind(1)
            if channels is None:
                self._key_value = (key, value)
                if keys.state.class_token and keys.rows.selection.extra is None:
                    self._class_query = _first_rows(query, keys.rows)
        else:
            if channels is None:
                key, value = self._project_keys()
            else:
                key, value = attn.project(keys.normed, 1, 3, channels).unbind(1)
            if self.joined and channels is None:
                query = self._queries_of(queries, alike)
            else:
                normed = keys.normed if alike else self._block.norm1(tokens)
                query = attn.project(normed, 0, 1, channels)[:, 0]
        return attn(
            query,
            key,
            value,
            queries=queries.layout,
            keys=keys.rows.layout,
            soft_keys=keys.rows.soft_keys,
            heads=heads,
            channels=channels,
        )

    def close(self, state: TokenState, rows: Rows, tokens: Tensor) -> None:
        """Take the rows after the attention: their new values (T', C) are not yet written back."""
        self._attended = (state, rows, tokens)

    def forget(self) -> None:
        """Free keys, values and normed rows, so that the MLP reuses their memory.

        Keeping them until the end of the block costs some percent of its time, because more memory
        goes through the processor's caches.
        """
        self._keys = self._key_value = self._all_normed = None
        self._every_query = self._class_query = None
        self._class_attention = None

    @property
    def was_written(self) -> bool:
        """Whether a policy has asked for the state after the attention."""
        return self._written is not None

    # ------------------------------------------------------------------ inside

    def _opened(self) -> _Keys:
        if self._keys is None:
            raise RuntimeError(
                "There are no keys at this moment: ask from before_attention to after_attention."
            )
        return self._keys

    def _with_class_token(self) -> _Keys:
        keys = self._opened()
        if not keys.state.class_token:
            raise RuntimeError("There is no class token to look at: say needs_class_token.")
        return keys

    def _every_normed(self, state: TokenState) -> Tensor:
        """(B, S, C) every token after the block's first norm, computed once."""
        if self._all_normed is None or self._all_normed[0] is not state.tokens:
            self._all_normed = (state.tokens, self._block.norm1(state.tokens))
        return self._all_normed[1]

    def _ask_class(self, keys: _Keys) -> Tensor:
        """(B, h, d) the class token's queries, projected for this alone if no row has them yet."""
        if self._class_query is None:
            self.own_class_query = True
            self._class_query = self._block.attn.project(self._class_rows(keys), 0, 1)[:, 0]
        return self._class_query

    def _class_rows(self, keys: _Keys) -> Tensor:
        """(B, C) the class token after the block's first norm, also where it is no row itself."""
        if keys.rows.selection.extra is None:
            return _first_rows(keys.normed, keys.rows)
        return self._block.norm1(keys.state.tokens[:, 0])

    def _heads_run(self, parts: BlockParts, queries: Layout) -> Tensor | None:
        """(k,) the heads that some image runs, asked of the device; None: compute all heads.

        All heads are computed where the choice is a gate, where rows have a key mask (an executor
        that computes every token, or has static shapes), where keys and values were already
        projected for the policy, and in a graph, whose layers have a fixed width.
        """
        gated = parts.heads.is_floating_point() or parts.attend.is_floating_point()
        if gated or self._key_value is not None or torch.compiler.is_compiling():
            return None
        if queries.key_mask is not None or self._opened().rows.layout.key_mask is not None:
            return None
        runs = parts.heads & (parts.attend > 0).unsqueeze(1)
        return runs.any(dim=0).nonzero().squeeze(1)

    def _project_keys(self) -> tuple[Tensor, Tensor]:
        """Keys and values (T, h, d), computed once."""
        if self._key_value is None:
            keys, attn = self._opened(), self._block.attn
            self.keys_again = self.heads not in (None, attn.num_heads)
            self.joined = self._cheap_to_join(keys)
            parts = attn.project(keys.normed, 0 if self.joined else 1, 3).unbind(1)
            self._key_value = (parts[-2], parts[-1])
            if self.joined:
                self._every_query = parts[0]
                if keys.state.class_token and keys.rows.selection.extra is None:
                    self._class_query = _first_rows(parts[0], keys.rows)
        return self._key_value

    def _cheap_to_join(self, keys: _Keys) -> bool:
        """Whether the queries of all keys are projected with keys and values.

        It is not known yet then which rows attend. Not in a graph, whose number of rows may vary,
        not on other devices, and not where rows only fill up a shape, because such a row may attend
        without being a key.
        """
        if self.heads is not None or keys.rows.valid is not None or torch.compiler.is_compiling():
            return False
        rows, width = keys.normed.shape
        return keys.normed.device.type == "cpu" and rows * width**2 <= JOINED_MACS

    def _queries_of(self, queries: Rows, alike: bool) -> Tensor:
        """(T', h, d) the queries of the rows `queries`, out of those of all keys."""
        assert self._every_query is not None
        if alike:
            return self._every_query
        index, among = queries.layout.index, self._opened().rows.layout.index
        if index is None:
            raise RuntimeError(_NO_KEY)
        if among is not None:
            places = torch.searchsorted(among, index)
            if not torch.equal(among.index_select(0, places.clamp_(max=len(among) - 1)), index):
                raise RuntimeError(
                    "A row attends that is no key: before_attention may only narrow."
                )
            index = places
        return self._every_query.index_select(0, index)


def _first_rows(values: Tensor, rows: Rows) -> Tensor:
    """(T, ...) -> (B, ...): each image's first row, where the class token lies."""
    if rows.layout.shape is not None:
        return values.unflatten(0, rows.layout.shape)[:, 0]
    firsts, end = [], 0
    for length in rows.layout.lengths:
        # An image that does not attend has no rows, and its class token's value is never used.
        firsts.append(values[end] if length else torch.zeros_like(values[0]))
        end += length
    return torch.stack(firsts)
