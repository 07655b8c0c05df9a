"""The contract between a policy, which decides, and the trunk, which executes.

B images, N patch tokens, E extra tokens, C channels, L blocks; blocks count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.tokens import ClassAttention, Selection, TokenState, TokenTrace

POLICY_REGISTRY = Registry("TOKEN_POLICY")
POLICY_REGISTRY.__doc__ = "Token policies by the name that MODEL.TOKEN_POLICY.NAME gives them."

WRAPPER_REGISTRY = Registry("TOKEN_POLICY_WRAPPER")
WRAPPER_REGISTRY.__doc__ = "Policies around a policy, by the names in MODEL.TOKEN_POLICY.WRAPPERS."


class TokenPolicy(nn.Module):
    """Decides which patch tokens each block processes.

    A policy speaks grid coordinates (B, N) only; packing, padding and batch size are not its
    business. It may hold parameters and statistics of the training, but nothing of a forward pass:
    that lives in `TokenState.memory`.
    """

    needs_class_token: ClassVar[bool] = False
    preserves: ClassVar[bool] = True
    """A skipped token is bit-identical afterwards."""
    adds_tokens: ClassVar[bool] = False
    """It puts tokens of its own beside the grid: keeping everyone is not the dense model."""
    score_layers: frozenset[int] = frozenset()
    """Blocks whose class-token attention is handed to `before_attention`."""
    attention_layers: frozenset[int] = frozenset()
    """Blocks whose class-token attention is handed to `after_attention`; none of `score_layers`."""

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Say who enters block `layer`. Default: everyone."""
        return state, everyone(state)

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Say who asks in the attention and goes on to the MLP. Default: those who entered.

        Called for `score_layers` only, when keys, values and the class token's row of attention are
        known and nothing else. Whom it drops answers as a key, but its own row is never computed:
        it keeps the value it came with. Only the state's `memory` may change; who says the same as
        before returns the same `keep`, and nothing is moved.
        """
        return entered, selection

    def after_attention(
        self,
        layer: int,
        entered: TokenState,
        attended: TokenState,
        selection: Selection,
        attention: ClassAttention,
    ) -> tuple[TokenState, Selection]:
        """Say who goes on from the attention to the MLP. Default: those who entered.

        Called for `attention_layers` only. `entered` is the state before the attention, `attended`
        after it; what is returned is what the MLP works on, tokens off the grid included. Whom it
        drops keeps the value from after the attention.
        """
        return attended, selection

    def after_block(
        self, layer: int, entered: TokenState, processed: TokenState, selection: Selection
    ) -> TokenState:
        """Say what the others get. Default: they keep the value they had."""
        return processed

    def losses(self, trace: TokenTrace, task_losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted auxiliary losses of one training pass, keys `loss_*`. Default: none."""
        return {}

    def track(self, trace: TokenTrace) -> None:
        """Update statistics (buffers) from one training pass. Default: there are none."""

    def decision_macs(self, num_tokens: int) -> dict[int, int]:
        """Multiply-adds of the decisions for `num_tokens` patch tokens, by block. Default: none."""
        return {}

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> TokenPolicy:
        """Build from the node `MODEL.TOKEN_POLICY`, of which it reads attributes only."""
        return cls()


def build_policy(cfg: Any, *, embed_dim: int, depth: int) -> TokenPolicy:
    """The policy that the node `MODEL.TOKEN_POLICY` describes, its wrappers around it.

    Raises InputError for a name nobody registered and for wrappers that do not go together.
    """
    if len(set(cfg.WRAPPERS)) != len(cfg.WRAPPERS):
        raise InputError(f"MODEL.TOKEN_POLICY.WRAPPERS names one twice: {list(cfg.WRAPPERS)}.")
    if "Monotone" in cfg.WRAPPERS and cfg.TEST_KEEP_RATIO is not None:
        raise InputError(
            "MODEL.TOKEN_POLICY.TEST_KEEP_RATIO: not under the wrapper Monotone, where the shares "
            "of the blocks multiply; unset it."
        )
    policy = _named(POLICY_REGISTRY, cfg.NAME, "NAME").from_config(
        cfg, embed_dim=embed_dim, depth=depth
    )
    for name in cfg.WRAPPERS:
        policy = _named(WRAPPER_REGISTRY, name, "WRAPPERS")(policy)
    return policy


def _named(registry: Registry, name: str, key: str) -> type[TokenPolicy]:
    if name not in registry:
        known = ", ".join(sorted(known for known, _ in registry))
        raise InputError(
            f"MODEL.TOKEN_POLICY.{key}: '{name}' is not registered; there are {known}."
        )
    return registry.get(name)


def everyone(state: TokenState) -> Selection:
    """Every patch token, known without looking."""
    keep = torch.ones(state.patches.shape[:2], dtype=torch.bool, device=state.patches.device)
    return Selection(keep=keep, whole=True)


def survivors(state: TokenState) -> Selection:
    """For a policy whose memory is the (B, N) mask of those it has not dropped; None: everyone."""
    if state.memory is None:
        return everyone(state)
    keep = state.memory if state.allowed is None else state.memory & state.allowed
    return Selection(keep=keep)


def keep_top(score: Tensor, count: int) -> Tensor:
    """(B, N) scores -> (B, N) bool with exactly the `count` highest of each image."""
    top = score.topk(count, dim=1, sorted=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, top, True)


def keep_highest(score: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """(B, N) scores -> (B, N) bool with the `counts` (B,) highest of those `among` (B, N) bool."""
    order = score.masked_fill(~among, float("-inf")).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return among & (rank < counts.unsqueeze(1))
