"""KeepSchedule: which blocks decide, and what share of an image's patch tokens each keeps.

A share is a share of all patch tokens of an image, however many tokens earlier blocks left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from sys import float_info

from svit_det.errors import InputError

LAST_NINE = tuple(range(3, 12))
"""SViT's blocks with a decision: of twelve, the first three stay dense."""
THREE_STEPS = (0.7,) * 3 + (0.49,) * 3 + (0.343,) * 3
"""SViT's shares for these blocks."""


@dataclass(frozen=True)
class KeepSchedule:
    """Blocks and their shares, checked when the schedule is made.

    Raises InputError unless `layers` are different blocks of a trunk of `depth` blocks, each with a
    share in (0, 1]. `falling` names a policy that cannot reactivate a token: its blocks must ascend
    and its shares must not rise.
    """

    layers: tuple[int, ...]
    shares: tuple[float, ...]
    depth: int
    falling: str = ""

    def __post_init__(self) -> None:
        layers, shares = self.layers, self.shares
        if len(shares) != len(layers):
            raise InputError(
                f"{len(shares)} targets for {len(layers)} layers; give one target for each block "
                "that decides.",
                setting="keep_ratios",
            )
        outside = [layer for layer in layers if not 0 <= layer < self.depth]
        if outside:
            raise InputError(
                f"{outside} not in the trunk, whose {self.depth} blocks count from 0 to "
                f"{self.depth - 1}.",
                setting="layers",
            )
        if len(set(layers)) != len(layers):
            raise InputError(f"{list(layers)} names a block twice.", setting="layers")
        wrong = [share for share in shares if not 0 < share <= 1]
        if wrong:
            raise InputError(f"{wrong} must lie in (0, 1].", setting="keep_ratios")
        if self.falling:
            self._check_falling()

    def _check_falling(self) -> None:
        if list(self.layers) != sorted(self.layers):
            raise InputError(
                f"{list(self.layers)} must ascend for {self.falling}.", setting="layers"
            )
        if any(later > earlier for earlier, later in pairwise(self.shares)):
            raise InputError(
                f"{list(self.shares)} rises, but {self.falling} cannot reactivate a token.",
                setting="keep_ratios",
            )

    def __contains__(self, layer: int) -> bool:
        return layer in self.layers

    def share(self, layer: int) -> float:
        """The share of block `layer`, which is one of `layers`."""
        return self.shares[self.layers.index(layer)]

    def with_mean(self, mean: float | None) -> KeepSchedule:
        """The same blocks with another mean share; None: the schedule as it is."""
        return replace(self, shares=with_mean(self.shares, mean))


def check_budget(mean: float | None) -> None:
    """Raise InputError unless `mean` is None or a share in (0, 1]."""
    if mean is not None and (not isinstance(mean, (int, float)) or not 0 < mean <= 1):
        raise InputError(f"{mean} must lie in (0, 1].", setting="test_keep_ratio")


def with_mean(shares: Sequence[float], mean: float | None) -> tuple[float, ...]:
    """`shares` raised to the one power that gives them this `mean`; None: `shares` as they are.

    A power keeps shares in (0, 1] and in order.
    """
    if mean is None:
        return tuple(shares)
    if mean >= 1:
        return (1.0,) * len(shares)
    # No power moves a share of 0 or 1.
    inside = [min(max(share, 1e-6), 1 - 1e-6) for share in shares]
    low, high = 0.0, 1e9
    for _ in range(200):
        power = (low + high) / 2
        if sum(share**power for share in inside) > mean * len(shares):
            low = power
        else:
            high = power
    # At a very high power a share would round to 0, which is no valid share.
    return tuple(max(share**low, float_info.min) for share in inside)
