"""Building a classifier from a config."""

from __future__ import annotations

from typing import Any

from svit_det.classification.model import TokenClassifier
from svit_det.config.trunk import build_trunk_from


def build_classifier(cfg: Any) -> TokenClassifier:
    """The classifier of the node MODEL, on the CPU, with fresh weights.

    The trunk has a class token under every policy. Raises InputError that names the key.
    """
    model = cfg.MODEL
    return TokenClassifier(
        trunk=build_trunk_from(model, class_token=True),
        num_classes=model.NUM_CLASSES,
        reads=model.READS,
    )
