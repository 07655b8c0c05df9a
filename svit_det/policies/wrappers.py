"""The ablations of the SViT paper, as policies around a policy.

B images, N patch tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.base import BlockView, TokenPolicy
from svit_det.policies.registry import WRAPPER_REGISTRY
from svit_det.tokens import BlockRecord, ClassAttention, Selection, TokenState


class PolicyWrapper(TokenPolicy):
    """Passes everything on to the policy inside.

    The wrapper's state dict is that of the policy inside, so that one checkpoint serves with and
    without the wrapper.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        nn.Module.__init__(self)
        self.policy = policy
        self.register_state_dict_post_hook(_drop_inner_prefix)
        self.register_load_state_dict_pre_hook(_add_inner_prefix)

    @property
    def takes_part_in_training(self) -> bool:
        """Whether the wrapper or the policy inside has losses, statistics or a clock."""
        own = any(
            getattr(type(self), name) is not getattr(PolicyWrapper, name)
            for name in ("losses", "track", "set_step")
        )
        return own or self.policy.takes_part_in_training

    def rate_factors(self) -> Mapping[str, float]:
        """The factors of the policy inside, by the longer names that its parameters have here."""
        return {_inside(name): factor for name, factor in self.policy.rate_factors().items()}

    def frozen(self, step: int, steps: int | None = None) -> Collection[str]:
        """The frozen parts of the policy inside, by their longer names."""
        return [_inside(name) for name in self.policy.frozen(step, steps)]

    @property
    def note_keys(self) -> frozenset[str]:
        """The wrapper's own key, if it remembers anything, and the keys of the policy inside."""
        return super().note_keys | self.policy.note_keys


def _inside(name: str) -> str:
    """The name of a part in the network -> its name under one more wrapper."""
    own = "trunk.policy."
    return f"{own}policy.{name.removeprefix(own)}" if name.startswith(own) else name


def _passed_on(name: str, member: Any) -> Any:
    """The method or attribute `name` of the contract, taken from the policy inside."""
    if callable(member):

        def method(self: PolicyWrapper, *args: Any, **options: Any) -> Any:
            return getattr(self.policy, name)(*args, **options)

        method.__name__, method.__doc__ = name, member.__doc__
        return method
    return property(lambda self: getattr(self.policy, name), doc=member.__doc__)


_ITS_OWN = (
    *("Config", "Notes", "recall", "remember", "note_keys", "takes_part_in_training"),
    *("rate_factors", "frozen"),
)
"""Members of the contract that a wrapper answers itself: its config, its notes, and the members
that ask for its own losses or give parameters longer names."""
for _name, _member in vars(TokenPolicy).items():
    # All members of the contract, so that a member added later reaches the policy inside too.
    if not _name.startswith("_") and _name not in _ITS_OWN:
        setattr(PolicyWrapper, _name, _passed_on(_name, _member))


def innermost(policy: TokenPolicy) -> TokenPolicy:
    """The policy inside all wrappers."""
    while isinstance(policy, PolicyWrapper):
        policy = policy.policy
    return policy


def _drop_inner_prefix(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    inner = prefix + "policy."
    for key in [key for key in state if key.startswith(inner)]:
        state[prefix + key[len(inner) :]] = state.pop(key)


def _add_inner_prefix(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + "policy." + key[len(prefix) :]] = state.pop(key)


class NarrowedView:
    """A BlockView whose policy may choose from fewer candidates."""

    def __init__(self, view: BlockView, candidates: Tensor) -> None:
        self.layer, self.last = view.layer, view.last
        outer = view.candidates
        self.candidates: Tensor | None = candidates if outer is None else candidates & outer
        self._view = view

    def normed(self, state: TokenState) -> Tensor:
        """The answer of the view inside."""
        return self._view.normed(state)

    def class_attention(self) -> ClassAttention:
        """The answer of the view inside."""
        return self._view.class_attention()

    def class_attention_to_all(self) -> ClassAttention:
        """The answer of the view inside."""
        return self._view.class_attention_to_all()

    def value_norms(self) -> Tensor:
        """The answer of the view inside."""
        return self._view.value_norms()

    def attended(self) -> TokenState:
        """The answer of the view inside."""
        return self._view.attended()


@dataclass(frozen=True)
class Alive:
    """Monotone's notes."""

    keep: Tensor
    """(B, N) bool, patch tokens that no block has skipped yet."""
    gate: Tensor | None = None
    """(B, N) the product of the gates so far, in training."""


@WRAPPER_REGISTRY.register()
class Monotone(PolicyWrapper):
    """No reactivation: a token that was skipped once is skipped in every later block.

    This is the "inherit mask" ablation: a new decision is multiplied by the previous one. A block
    without a decision inherits the previous mask, without a gradient.
    """

    Notes = Alive

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__(policy)
        _refuse_budget(policy.keep_ratio)

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Refuses any budget: the shares of the blocks multiply under this wrapper."""
        _refuse_budget(ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Let the policy inside choose among the tokens that are still alive."""
        alive: Alive | None = self.recall(state)
        if alive is not None:
            view = NarrowedView(view, alive.keep)
        state, own = self.policy.before_block(view, state)
        selection = own if alive is None else _inherit(own, alive)
        return self._note(state, selection, own, alive), selection

    def before_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """A token that the policy inside skips here is skipped in the later blocks too."""
        state, chosen = self.policy.before_attention(view, state, selection)
        return self._outlive(state, chosen, selection), chosen

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """A token that the policy inside skips here is skipped in the later blocks too."""
        state, chosen = self.policy.after_attention(view, state, selection)
        return self._outlive(state, chosen, selection), chosen

    def after_block(
        self, view: BlockView, entered: TokenState, state: TokenState, record: BlockRecord
    ) -> TokenState:
        """A token that the executor had no room for is skipped in the later blocks too."""
        state = self.policy.after_block(view, entered, state, record)
        alive: Alive | None = self.recall(state)
        kept, parts = record.selection.keep, record.selection.parts
        if alive is None or kept is alive.keep:
            return state
        if parts is not None:
            # An image that skips the whole block has decided nothing about its tokens.
            kept = kept | ~((parts.attend > 0) | (parts.feed > 0)).unsqueeze(1)
        return self.remember(state, Alive(alive.keep & kept, alive.gate))

    def _note(
        self, state: TokenState, selection: Selection, own: Selection, alive: Alive | None
    ) -> TokenState:
        if selection.total == state.tokens.shape[1]:
            return state
        before = None if alive is None else alive.gate
        gate = before if own.gate is None else selection.gate
        return self.remember(state, Alive(selection.keep, gate))

    def _outlive(self, state: TokenState, chosen: Selection, before: Selection) -> TokenState:
        if chosen.keep is before.keep:
            return state
        alive: Alive | None = self.recall(state)
        gate = None if alive is None or alive.gate is None else alive.gate * chosen.keep
        return self.remember(state, Alive(chosen.keep, gate))


def _refuse_budget(ratio: float | None) -> None:
    if ratio is not None:
        raise InputError(
            "not under the wrapper Monotone, where the shares of the blocks multiply; unset it.",
            setting="test_keep_ratio",
        )


def _inherit(own: Selection, alive: Alive) -> Selection:
    if own.gate is None:
        gate = None if alive.gate is None else alive.gate.detach()
    else:
        gate = own.gate * (alive.keep if alive.gate is None else alive.gate)
    return replace(own, keep=own.keep & alive.keep, gate=gate, total=None)


@WRAPPER_REGISTRY.register()
class Forgetful(PolicyWrapper):
    """A skipped token is zeroed in the map instead of keeping its last value.

    This shows what happens to a dense task when tokens are discarded, as in classification models.
    """

    preserves = False

    def after_block(
        self, view: BlockView, entered: TokenState, state: TokenState, record: BlockRecord
    ) -> TokenState:
        """Zero the tokens that the block skipped."""
        state = self.policy.after_block(view, entered, state, record)
        if record.everyone:
            return state
        keep, gate = record.selection.keep.unsqueeze(-1), record.selection.gate
        if gate is None:
            return state.with_patches(state.patches * keep)
        # The state holds gate * new + (1 - gate) * old. Without its second term it is gate * new,
        # and has the gradient of gate * new.
        old_share = (1 - gate).to(state.tokens.dtype).unsqueeze(-1) * entered.patches
        patches = state.patches - old_share
        # A token skipped after the attention was already changed by it; that value is zeroed as
        # well.
        return state.with_patches(patches - (patches * ~keep).detach())
