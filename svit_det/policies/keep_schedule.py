"""The keep schedule that policies share: which blocks decide, and what share of tokens each keeps.

A share is of all patch tokens of an image, whatever earlier blocks left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from svit_det.errors import InputError

LAST_NINE = tuple(range(3, 12))
"""SViT's blocks with a decision: of twelve, the first three stay dense."""
THREE_STEPS = (0.7,) * 3 + (0.49,) * 3 + (0.343,) * 3
"""SViT's shares for them."""
RATIOS_KEY = "MODEL.TOKEN_POLICY.KEEP_RATIOS"


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Raise InputError unless `layers` are different blocks of the trunk."""
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside:
        raise InputError(
            f"MODEL.TOKEN_POLICY.LAYERS: {outside} not in the trunk, whose {depth} blocks count "
            f"from 0 to {depth - 1}."
        )
    if len(set(layers)) != len(layers):
        raise InputError(f"MODEL.TOKEN_POLICY.LAYERS names a block twice: {list(layers)}.")


def check_schedule(layers: Sequence[int], keep_ratios: Sequence[float], depth: int) -> None:
    """Raise InputError unless each of `layers` is a block and has a share in (0, 1]."""
    if len(keep_ratios) != len(layers):
        raise InputError(
            f"{RATIOS_KEY} has {len(keep_ratios)} targets for {len(layers)} LAYERS; give one "
            "target per gated block."
        )
    check_layers(layers, depth)
    wrong = [ratio for ratio in keep_ratios if not 0 < ratio <= 1]
    if wrong:
        raise InputError(f"{RATIOS_KEY}: {wrong} must lie in (0, 1].")


def check_falling(layers: Sequence[int], keep_ratios: Sequence[float], policy: str) -> None:
    """Raise InputError unless blocks and shares come in the order of a trunk that only loses."""
    if list(layers) != sorted(layers):
        raise InputError(f"MODEL.TOKEN_POLICY.LAYERS: {list(layers)} must ascend for {policy}.")
    if any(later > earlier for earlier, later in pairwise(keep_ratios)):
        raise InputError(
            f"{RATIOS_KEY}: {list(keep_ratios)} rises, but {policy} brings no token back."
        )


def check_test_keep_ratio(ratio: float | None) -> None:
    """Raise InputError unless `ratio` is None or a share in (0, 1]."""
    if ratio is None:
        return
    if not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise InputError(f"MODEL.TOKEN_POLICY.TEST_KEEP_RATIO: {ratio} must lie in (0, 1].")


def with_mean(shares: Sequence[float], mean: float | None) -> tuple[float, ...]:
    """`shares` raised to the one power that gives them this `mean`; None: as they are.

    A power keeps them in (0, 1] and in order.
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
    return tuple(share**low for share in inside)
