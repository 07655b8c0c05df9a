"""Usage over many images: kept shares, overlaps, reactivation. numpy and plain numbers only.

L blocks. The counts of an image are {"tokens": n, "kept": [n_0, ..., n_{L-1}]}: the number of
tokens in some set, and how many of these tokens each block kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from torch import Tensor


class Counts(TypedDict):
    """Tokens of one image in some set."""

    tokens: int
    kept: list[int]
    """By block."""


def count(usage: Tensor, members: Tensor) -> Counts:
    """Count the tokens of the set `members` (H, W) bool, and how many of them `usage` keeps.

    `usage` (L, H, W) is bool.
    """
    return {
        "tokens": int(members.sum()),
        "kept": (usage & members).sum(dim=(1, 2)).tolist(),
    }


def kept_twice(usage: Tensor) -> list[int]:
    """`usage` (L, H, W) bool -> L - 1 numbers: tokens that block l and block l + 1 both kept."""
    return (usage[1:] & usage[:-1]).sum(dim=(1, 2)).tolist()


def kept_shares(images: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(L,) share of the tokens in the set `name`, of all images together, that a block kept."""
    kept = np.sum([image[name]["kept"] for image in images], axis=0)
    total = sum(image[name]["tokens"] for image in images)
    return kept / total if total else np.full(len(kept), np.nan)


def overlaps(images: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(L - 1,) over all images: tokens kept by both block l and l + 1, over tokens kept by either.

    The overlap is 1 where both blocks keep the same tokens. The overlap of two blocks is at most
    the smaller of their kept shares over the larger.
    """
    both, kept = _kept_twice(images)
    either = kept[:-1] + kept[1:] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def returning(images: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(L - 1,) over all images: share of the tokens kept by block l + 1 that block l skipped.

    0 where no token is reactivated.
    """
    both, kept = _kept_twice(images)
    return 1 - np.where(kept[1:] > 0, both / np.maximum(kept[1:], 1), 1.0)


def _kept_twice(images: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.sum([image["kept_twice"] for image in images], axis=0)
    return both, np.sum([image["all"]["kept"] for image in images], axis=0)
