"""AttentionProbe: the dense model with a class token whose attention is recorded in each block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from svit_det.policies.base import BlockView, TokenPolicy
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.wrappers import PolicyWrapper
from svit_det.tokens import PassRecord, Selection, TokenState


@POLICY_REGISTRY.register()
class AttentionProbe(TokenPolicy):
    """Keeps every token; each selection's score is the class token's attention, mean over heads.

    The policy serves the picture of what a model looks at in each block (SViT, supplementary,
    figure 2). Load weights that have a class token: a random class token looks anywhere.
    """

    needs_class_token = True
    shows_attention = True
    takes_any_key = True

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Write down what the class token attends to."""
        score = view.class_attention().weights.detach().mean(dim=1)
        return state, replace(selection, score=score)


class AttentionWatch(PolicyWrapper):
    """Writes down what the class token attends to. The policy inside decides as without it.

    The wrapper serves pictures, at inference (SViT, supplementary, figure 2); `watched_attention`
    reads the notes. Looking costs a little computation, and the record counts this cost.
    """

    Notes = tuple
    needs_class_token = True

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Look, then let the policy inside go on."""
        seen = view.class_attention().weights.detach().mean(dim=1)
        state = self.remember(state, (*(self.recall(state) or ()), (view.layer, seen)))
        return self.policy.after_attention(view, state, selection)


def watched_attention(record: PassRecord) -> Tensor:
    """(B, L, N) what the class token attended to in each block, mean over heads.

    `record` comes from a pass under `AttentionWatch`. A patch token that was no key has 0, and so
    has every token of an image that skipped the attention.
    """
    batch, blocks = record.tokens.shape[:2], len(record.blocks)
    seen = record.tokens.new_zeros(blocks, *batch, dtype=torch.float32)
    for layer, weights in record.notes.get(AttentionWatch.__name__, ()):
        seen[layer] = weights
    return seen.transpose(0, 1)
