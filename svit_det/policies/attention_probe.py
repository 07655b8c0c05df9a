"""AttentionProbe: the dense model with a class token whose attention is recorded in each block."""

from __future__ import annotations

from dataclasses import replace

from svit_det.policies.base import BlockView, TokenPolicy
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.wrappers import PolicyWrapper
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


class AttentionWatch(PolicyWrapper):
    """Writes down what the class token attends to under the policy inside, which decides as before.

    The note is one (B, N) tensor for each block that attended, the mean over heads; a token that is
    no key has 0. For pictures, at inference (SViT, supplementary, figure 2).
    """

    Notes = tuple
    needs_class_token = True

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Look, then let the policy inside go on."""
        seen = view.class_attention().weights.detach().mean(dim=1)
        state = self.remember(state, (*(self.recall(state) or ()), seen))
        return self.policy.after_attention(view, state, selection)
