"""AttentionProbe: the dense model with a class token whose attention is recorded in each block."""

from __future__ import annotations

from dataclasses import replace

from svit_det.policies.base import BlockView, TokenPolicy
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.tokens import Selection, TokenState


@POLICY_REGISTRY.register()
class AttentionProbe(TokenPolicy):
    """Keeps everyone; each selection's score is the class token's attention, mean over heads.

    For the picture of what a model looks at in each block (SViT, supplementary, figure 2). Load
    weights that have a class token: a random one looks anywhere.
    """

    needs_class_token = True
    shows_attention = True
    takes_any_key = True

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Write down what the class token sees."""
        score = view.class_attention().weights.detach().mean(dim=1)
        return state, replace(selection, score=score)
