"""Reading a trained classifier from its file alone: the file says how the model was built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svit_det.classification.build import build_classifier
from svit_det.classification.config import check_config, default_config
from svit_det.classification.model import TokenClassifier
from svit_det.classification.thresholds import warn_of_untracked
from svit_det.classification.weights import load_weights
from svit_det.config.reading import keys_of, merge_options, merge_values, naming_the_source
from svit_det.config.yaml_file import parse_yaml
from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint
from svit_det.weights.model_size import in_proportion


def read_trained(path: str, options: Sequence[str] = ()) -> tuple[Any, TokenClassifier]:
    """The config of a file's training, with KEY VALUE overrides, and the trained model.

    Raises InputError for a file without its config, for a config that `load_config` would refuse,
    and for overrides that do not fit.
    """
    said = read_checkpoint(path).get(DESCRIPTION, {})
    if not isinstance(said.get("config"), str):
        raise InputError(
            f"{path}: does not say how it was trained; give the model_final.pth of a training of "
            "train_classifier.py, or a file that convert_weights.py --classifier wrote."
        )
    cfg = config_in(said["config"], options, source=f"the config in {path}")
    with in_proportion(path):
        model = build_classifier(cfg)
    load_weights(model, path, for_training=False)
    warn_of_untracked(model, path)
    return cfg, model.to(cfg.MODEL.DEVICE).eval()


def config_in(text: str, options: Sequence[str], *, source: str) -> Any:
    """The config that a file holds as text, on this machine's device, with KEY VALUE overrides.

    Raises InputError that names `source`, or the command line.
    """
    cfg = default_config()
    options = ["MODEL.DEVICE", cfg.MODEL.DEVICE, *options]
    values = parse_yaml(text, source=source)
    merge_values(cfg, values, source=source)
    merge_options(cfg, options)
    places = dict.fromkeys(keys_of(values), source)
    with naming_the_source(places | dict.fromkeys(options[::2], "On the command line")):
        check_config(cfg)
    return cfg
