"""AttentionProbe: the dense model with a class token whose attention is recorded in each block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy
from svit_det.tokens import ClassAttention, Selection, TokenState


@POLICY_REGISTRY.register()
class AttentionProbe(TokenPolicy):
    """Keeps everyone; each selection's score is the class token's attention, mean over heads.

    For the picture of what a model looks at in each block (SViT, supplementary, figure 2). Load
    weights that have a class token: a random one looks anywhere.
    """

    needs_class_token = True

    def __init__(self, *, depth: int) -> None:
        super().__init__()
        self.score_layers = frozenset(range(depth))

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> AttentionProbe:
        """Every block of the trunk."""
        return cls(depth=depth)

    def before_attention(
        self, layer: int, entered: TokenState, selection: Selection, attention: ClassAttention
    ) -> tuple[TokenState, Selection]:
        """Write down what the class token sees."""
        return entered, replace(selection, score=attention.weights.detach().mean(dim=1))
