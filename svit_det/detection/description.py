"""The description in a checkpoint: plain values, so that the file stays data."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import get_event_storage, has_event_storage

from svit_det import __version__

USAGE = "token_usage/"
BLOCK = "token_usage/block_"
"""The beginning of the names of kept shares in detectron2's event storage; evaluations have other
names."""
STEPS = 20


def describe_run(cfg: CfgNode) -> dict[str, Any]:
    """Config, policy, classes, training sets and, in a training, the shares of tokens kept.

    The classes are those of the first training set, if this set is registered with names, and so
    are the ids that its json gives them. A block that keeps every token has no share.
    """
    description: dict[str, Any] = {
        "version": __version__,
        "config": cfg.dump(),
        "policy": cfg.MODEL.TOKEN_POLICY.NAME,
        "train_sets": list(cfg.DATASETS.TRAIN),
    }
    names = _class_names(description["train_sets"])
    if names:
        description["classes"] = names
    ids = _category_ids(description["train_sets"])
    if ids:
        description["category_ids"] = ids
    kept = _kept_shares()
    if kept:
        description["kept_share_per_block"] = kept
        description["kept_share_source"] = f"training, mean of the last {STEPS} steps"
    return description


def _class_names(train_sets: list[str]) -> list[str]:
    return [str(name) for name in _said_of_first(train_sets, "thing_classes") or ()]


def _category_ids(train_sets: list[str]) -> list[int]:
    """The ids of the set's json, in the order of the model's classes."""
    classes = _said_of_first(train_sets, "thing_dataset_id_to_contiguous_id") or {}
    return sorted(map(int, classes), key=lambda each: classes[each])


def _said_of_first(train_sets: list[str], what: str) -> Any:
    # `get` alone would make an entry for a name that is not registered.
    if not train_sets or train_sets[0] not in MetadataCatalog.list():
        return None
    return MetadataCatalog.get(train_sets[0]).get(what)


def _kept_shares() -> dict[str, float]:
    """The kept shares by block, as in {"block_03": 0.7}; empty outside a training."""
    if not has_event_storage():
        return {}
    shares = {
        name.removeprefix(USAGE): float(history.avg(STEPS))
        for name, history in sorted(get_event_storage().histories().items())
        if name.startswith(BLOCK)
    }
    return {block: share for block, share in shares.items() if math.isfinite(share)}
