"""Decisions without a decider: fixed token counts per image, for timing the executor alone.

B images, N patch tokens, L blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import TokenPolicy, everyone, keep_top
from svit_det.tokens import Selection, TokenState


class FixedSchedule(TokenPolicy):
    """Image b keeps exactly `counts[b][l]` seeded random tokens in block l; free of charge.

    For benchmarks only, and so not registered. The masks are made once, here: a batch must have the
    size and the number of tokens that they were made for. A block that everyone enters is known to
    be whole, as it is under SViT.
    """

    def __init__(self, counts: Tensor, num_tokens: int, *, seed: int = 0) -> None:
        super().__init__()
        if counts.min() < 0 or counts.max() > num_tokens:
            raise InputError(
                f"A schedule keeps {int(counts.min())} to {int(counts.max())} of {num_tokens} "
                "tokens; choose counts between none and all."
            )
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(*counts.shape, num_tokens, generator=generator)
        rows = [
            keep_top(score[None], count)
            for score, count in zip(scores.flatten(0, 1), counts.flatten().tolist(), strict=True)
        ]
        self.register_buffer("masks", torch.cat(rows).view_as(scores), persistent=False)
        self.whole = frozenset((counts == num_tokens).all(dim=0).nonzero().flatten().tolist())

    def of_image(self, image: int) -> FixedSchedule:
        """The schedule of one of the images, alone."""
        alone = copy.copy(self)
        alone._buffers = {"masks": self.masks[image : image + 1]}
        num_tokens = self.masks.shape[2]
        full = self.masks[image].sum(dim=1) == num_tokens
        alone.whole = frozenset(full.nonzero().flatten().tolist())
        return alone

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Play the mask of this block."""
        keep = self.masks[:, layer]
        if keep.shape != state.patches.shape[:2]:
            raise InputError(
                f"This schedule is for (images, tokens) {tuple(keep.shape)}, "
                f"not for {tuple(state.patches.shape[:2])}."
            )
        return state, everyone(state) if layer in self.whole else Selection(keep=keep)


def spread_counts(
    mean_counts: Sequence[int], batch_size: int, num_tokens: int, *, spread: float
) -> Tensor:
    """(B, L) counts that differ between the images and have the given mean in every block.

    From the first image to the last they rise linearly from (1 - spread) to (1 + spread) times the
    mean; images from both ends differ from it by the same number, so that the total is exact. A
    block of all `num_tokens` stays one.
    """
    means = torch.tensor(mean_counts)
    counts = means.repeat(batch_size, 1)
    for image in range(batch_size // 2):
        distance = spread * (1 - 2 * image / (batch_size - 1))
        shift = (distance * means).round().long().masked_fill(means == num_tokens, 0)
        counts[image] -= shift
        counts[batch_size - 1 - image] += shift
    if counts.min() < 0 or counts.max() > num_tokens:
        raise InputError(
            f"--count-spread {spread}: an image would keep {int(counts.max())} of {num_tokens} "
            "tokens; choose a smaller one."
        )
    return counts
