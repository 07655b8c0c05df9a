"""Fixed token counts per image instead of decisions, for timing the executor alone.

B images, N patch tokens, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.policies.base import BlockView
from svit_det.tokens import Selection, TokenState


class FixedSchedule(TokenPolicy):
    """Image b keeps the patch tokens `masks[b][l]` (B, L, N) in block l, at no cost of deciding.

    The policy is for benchmarks only, and therefore not registered. A batch must have the size and
    the number of tokens of the masks. The total of a block is known beforehand where its count is
    the same in all images, as under SViT's quota.
    """

    masks: Tensor

    def __init__(self, *, masks: Tensor) -> None:
        super().__init__()
        self.register_buffer("masks", masks, persistent=False)
        by_block = masks.sum(dim=2).T.tolist()
        self.counts = tuple(each[0] if len(set(each)) == 1 else None for each in by_block)
        """By block, the number of tokens that every image keeps; None where images differ."""

    @classmethod
    def of_counts(cls, counts: Tensor, num_tokens: int, *, seed: int = 0) -> FixedSchedule:
        """Exactly `counts` (B, L) seeded random tokens. Raises InputError for impossible counts."""
        if counts.min() < 0 or counts.max() > num_tokens:
            raise InputError(
                f"A schedule keeps {int(counts.min())} to {int(counts.max())} of {num_tokens} "
                "tokens; choose counts between none and all."
            )
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(*counts.shape, num_tokens, generator=generator)
        rank = scores.argsort(dim=2, descending=True).argsort(dim=2)
        return cls(masks=rank < counts.unsqueeze(2))

    def of_image(self, image: int) -> FixedSchedule:
        """The schedule of one image, as a batch of one."""
        return FixedSchedule(masks=self.masks[image : image + 1])

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Keep the tokens of this block's mask."""
        keep, count = self.masks[:, view.layer], self.counts[view.layer]
        if keep.shape != state.patches.shape[:2]:
            raise InputError(
                f"This schedule is for (images, tokens) {tuple(keep.shape)}, "
                f"not for {tuple(state.patches.shape[:2])}."
            )
        total = None if count is None else count + state.num_extra
        return state, Selection(keep=keep, total=total)


def spread_counts(
    mean_counts: Sequence[int], batch_size: int, num_tokens: int, *, spread: float
) -> Tensor:
    """(B, L) counts that differ between the images and have the given mean in every block.

    From the first image to the last the counts rise linearly from (1 - spread) to (1 + spread)
    times the mean. Two images at the same place from both ends differ from the mean by the same
    number, so that the total is exact. A block that keeps all `num_tokens` stays so.
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
