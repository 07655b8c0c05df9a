"""Reading a trained classifier from its file alone: the file says how the model was built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from svit_det.classification.build import build_classifier
from svit_det.classification.config import check_config, default_config
from svit_det.classification.model import TokenClassifier
from svit_det.classification.weights import load_weights
from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint


def read_trained(path: str, options: Sequence[str] = ()) -> tuple[Any, TokenClassifier]:
    """The config of a file's training, with KEY VALUE overrides, and the trained model.

    Raises InputError for a file without its config, and for overrides that do not fit.
    """
    said = read_checkpoint(path).get(DESCRIPTION, {})
    if "config" not in said:
        raise InputError(
            f"{path}: does not say how it was trained; give the model_final.pth of a training of "
            "train_classifier.py."
        )
    cfg = default_config()
    device = cfg.MODEL.DEVICE
    try:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(said["config"]))
        cfg.merge_from_list(["MODEL.DEVICE", device, *options])
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: its config does not fit ({error}).") from error
    check_config(cfg)
    model = build_classifier(cfg)
    load_weights(model, path, for_training=False)
    return cfg, model.to(cfg.MODEL.DEVICE).eval()
