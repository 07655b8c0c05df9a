"""Thresholds that no training tracked: no released file holds any, and a model needs them."""

from __future__ import annotations

import logging

from svit_det.classification.model import TokenClassifier
from svit_det.config.declared import node_of
from svit_det.policies import POLICY_REGISTRY
from svit_det.policies.budget import KeepBudget

logger = logging.getLogger(__name__)

RELEASED = ("sample", "released")
"""Modes that decide as the code of a release does, without tracked thresholds."""


def warn_of_untracked(model: TokenClassifier, source: str) -> None:
    """Log a warning where the weights from `source` decide by thresholds of no training."""
    said = untracked(model)
    if said:
        logger.warning("%s: %s", source, said)


def untracked(model: TokenClassifier) -> str:
    """A sentence where the model decides by thresholds that no training tracked; else nothing.

    Under a budget nothing is said, because the budget is nearly met by any thresholds.
    """
    parts = list(model.trunk.policy.modules())
    policy = next((each for each in parts if getattr(each, "mode", "") == "threshold"), None)
    if policy is None or model.trunk.policy.keep_ratio is not None:
        return ""
    budgets = [each for each in parts if isinstance(each, KeepBudget)]
    if all(each.num_batches_tracked > 0 for each in budgets):
        return ""
    name = type(policy).__name__
    key = f"{node_of(name)}.MODE"
    choices = POLICY_REGISTRY.get(name).Config.described()["mode"].choices or ()
    mode = next((each for each in RELEASED if each in choices), None)
    way = f"set {key} {mode}, as the release does" if mode else f"train it, or set another {key}"
    return (
        f"no training has tracked the thresholds of {name}, so that mode threshold takes 0 for "
        f"each of them and may keep nothing in the last blocks; {way}."
    )
