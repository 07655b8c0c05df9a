"""The paper's ablations, as policies around a policy.

B images, N patch tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from svit_det.policies.base import WRAPPER_REGISTRY, TokenPolicy
from svit_det.tokens import ClassAttention, Selection, TokenState, TokenTrace


class PolicyWrapper(TokenPolicy):
    """Passes everything on to the policy inside.

    Its state dict is that of the policy inside, so that one checkpoint serves with and without it.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.needs_class_token = policy.needs_class_token
        self.preserves = policy.preserves
        self.adds_tokens = policy.adds_tokens
        self.register_state_dict_post_hook(_drop_inner_prefix)
        self.register_load_state_dict_pre_hook(_add_inner_prefix)

    @property
    def score_layers(self) -> frozenset[int]:
        """Those of the policy inside."""
        return self.policy.score_layers

    @property
    def attention_layers(self) -> frozenset[int]:
        """Those of the policy inside."""
        return self.policy.attention_layers

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Ask the policy inside."""
        return self.policy.before_block(layer, state)

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Ask the policy inside."""
        return self.policy.before_attention(layer, entered, selection, attention)

    def after_attention(
        self,
        layer: int,
        entered: TokenState,
        attended: TokenState,
        selection: Selection,
        attention: ClassAttention,
    ) -> tuple[TokenState, Selection]:
        """Ask the policy inside."""
        return self.policy.after_attention(layer, entered, attended, selection, attention)

    def after_block(
        self, layer: int, entered: TokenState, processed: TokenState, selection: Selection
    ) -> TokenState:
        """Ask the policy inside."""
        return self.policy.after_block(layer, entered, processed, selection)

    def losses(self, trace: TokenTrace, task_losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ask the policy inside."""
        return self.policy.losses(trace, task_losses)

    def track(self, trace: TokenTrace) -> None:
        """Ask the policy inside."""
        self.policy.track(trace)

    def decision_macs(self, num_tokens: int) -> dict[int, int]:
        """Ask the policy inside."""
        return self.policy.decision_macs(num_tokens)


def _drop_inner_prefix(module: Any, state: dict, prefix: str, local_metadata: Any) -> None:
    inner = prefix + "policy."
    for key in [key for key in state if key.startswith(inner)]:
        state[prefix + key[len(inner) :]] = state.pop(key)


def _add_inner_prefix(module: Any, state: dict, prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + "policy." + key[len(prefix) :]] = state.pop(key)


class _Alive(NamedTuple):
    keep: Tensor | None = None
    """(B, N) bool, tokens that no block has skipped yet; None: all."""
    gate: Tensor | None = None
    """(B, N) the product of the gates so far, in training."""
    inner: Any = None
    """The memory of the policy inside."""


@WRAPPER_REGISTRY.register()
class Monotone(PolicyWrapper):
    """No reactivation: a token that was skipped once is skipped in every later block.

    The "inherit mask" ablation: a new decision is multiplied by the previous one; a block without a
    decision of its own inherits the mask, there without a gradient.
    """

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Let the policy inside choose among those still alive."""
        alive = state.memory or _Alive()
        allowed = state.allowed if alive.keep is None else alive.keep
        inner, own = self.policy.before_block(
            layer, replace(state, memory=alive.inner, allowed=allowed)
        )
        selection = own if alive.keep is None else _inherit(own, alive)
        memory = _Alive(
            keep=None if selection.whole else selection.keep,
            gate=alive.gate if own.gate is None else selection.gate,
            inner=inner.memory,
        )
        return replace(inner, memory=memory, allowed=state.allowed), selection

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Whom the policy inside drops here is gone for the later blocks too."""
        inner, chosen = self.policy.before_attention(layer, _unwrap(entered), selection, attention)
        return self._outlive(entered.memory, inner, chosen), chosen

    def after_attention(
        self,
        layer: int,
        entered: TokenState,
        attended: TokenState,
        selection: Selection,
        attention: ClassAttention,
    ) -> tuple[TokenState, Selection]:
        """The same after the attention."""
        inner, chosen = self.policy.after_attention(
            layer, _unwrap(entered), _unwrap(attended), selection, attention
        )
        return self._outlive(attended.memory, inner, chosen), chosen

    @staticmethod
    def _outlive(alive: _Alive, inner: TokenState, chosen: Selection) -> TokenState:
        memory = _Alive(
            keep=None if chosen.whole else chosen.keep,
            gate=None if alive.gate is None else alive.gate * chosen.keep,
            inner=inner.memory,
        )
        return replace(inner, memory=memory)

    def after_block(
        self, layer: int, entered: TokenState, processed: TokenState, selection: Selection
    ) -> TokenState:
        """Ask the policy inside, with its own memory."""
        alive: _Alive = processed.memory
        inner = self.policy.after_block(layer, _unwrap(entered), _unwrap(processed), selection)
        return replace(inner, memory=alive._replace(inner=inner.memory))


def _inherit(own: Selection, alive: _Alive) -> Selection:
    if own.gate is None:
        gate = None if alive.gate is None else alive.gate.detach()
    else:
        gate = own.gate * (alive.keep if alive.gate is None else alive.gate)
    return replace(own, keep=own.keep & alive.keep, gate=gate, whole=False)


def _unwrap(state: TokenState) -> TokenState:
    return replace(state, memory=state.memory.inner)


@WRAPPER_REGISTRY.register()
class Forgetful(PolicyWrapper):
    """A skipped token is zeroed in the map instead of keeping its last value.

    What token pruning does to a dense task when it discards tokens, as classification models may.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__(policy)
        self.preserves = False

    def after_block(
        self, layer: int, entered: TokenState, processed: TokenState, selection: Selection
    ) -> TokenState:
        """Zero whom the block did not process."""
        state = self.policy.after_block(layer, entered, processed, selection)
        if selection.whole:
            return state
        if selection.gate is None:
            return replace(state, patches=state.patches * selection.keep.unsqueeze(-1))
        # gate * new + (1 - gate) * old, less its second half, has the gradient of gate * new.
        old_share = (1 - selection.gate).to(entered.patches.dtype).unsqueeze(-1) * entered.patches
        patches = state.patches - old_share
        # One that went through the attention only is not what it was before; its value goes too.
        return replace(state, patches=patches - (patches * ~selection.keep.unsqueeze(-1)).detach())
