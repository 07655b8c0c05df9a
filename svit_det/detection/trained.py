"""Trained weights with the config that their file describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from svit_det.detection.config_file import load_config
from svit_det.errors import InputError
from svit_det.files import scratch_folder
from svit_det.shipped import existing_weights
from svit_det.weights.files import read_description


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trained weights, and the data needed to run them."""

    cfg: CfgNode
    """The config with the overrides, and MODEL.WEIGHTS set to the file."""
    class_names: list[str] | None
    """Names in the order of the model's classes; None: unknown."""
    said: Mapping[str, Any]
    """The file's description, see `describe_run`."""


def read_trained(
    weights: str | Path | None = None,
    options: Sequence[str] = (),
    *,
    config_file: str | None = None,
) -> Trained:
    """The config that `weights` carry, or the yaml `config_file`, with KEY VALUE overrides.

    Without `weights`, the yaml's TEST.WEIGHTS names the weights. Raises InputError for every config
    that `load_config` refuses, for weights that are missing or on the network, and for weights
    without a config where no yaml is given. The tensors are not read yet.
    """
    if weights is None:
        if config_file is None:
            raise InputError("Nothing to run: give --weights, or --config-file that names some.")
        cfg = load_config(config_file, options)
        if not cfg.TEST.WEIGHTS:
            raise InputError(
                f"{config_file}: TEST.WEIGHTS names no trained weights; give --weights."
            )
        path = existing_weights(cfg.TEST.WEIGHTS, name="TEST.WEIGHTS")
    else:
        path = existing_weights(str(weights))
    said = read_description(path)
    if weights is not None:
        cfg = _config_of(path, said, options, config_file)
    cfg.MODEL.WEIGHTS = path
    return Trained(cfg=cfg, class_names=class_names_of(cfg, said), said=said)


def _config_of(
    path: str, said: Mapping[str, Any], options: Sequence[str], config_file: str | None
) -> CfgNode:
    if config_file is not None:
        return load_config(config_file, options)
    text = said.get("config")
    if not isinstance(text, str):
        raise InputError(
            f"--weights {path}: carries no config; give --config-file, the yaml that it was "
            "trained with."
        )
    if "MODEL.DEVICE" not in options[::2]:  # the file has the device of the training's machine
        options = ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu", *options]
    with scratch_folder() as folder:
        copied = folder / "config.yaml"
        copied.write_text(text, encoding="utf-8")
        try:
            return load_config(str(copied), options)
        except InputError as error:
            sentence = str(error).replace(str(copied), f"the config in {path}")
            raise InputError(sentence) from error


def class_names_of(cfg: CfgNode, said: Mapping[str, Any] | None = None) -> list[str] | None:
    """The names of the model's classes: from the file of weights, else from the config's sets.

    The names are those of the first set that is named in COCO_FORMAT and exists here, or that is
    registered with names; test sets come first. None: unknown.
    """
    known = (said or {}).get("classes")
    if isinstance(known, list) and known:
        return [str(name) for name in known]
    files = {name: path for name, path, _ in cfg.DATASETS.COCO_FORMAT}
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = _of_json(Path(files[name])) if name in files else None
        # `get` alone would make an entry for a name that is not registered.
        if not names and name in MetadataCatalog.list():
            names = MetadataCatalog.get(name).get("thing_classes")
        if names:
            return [str(each) for each in names]
    return None


def _of_json(path: Path) -> list[str]:
    """The category names in the order of their ids, as in detectron2; empty if there are none."""
    try:
        categories = json.loads(path.read_bytes())["categories"]
        return [str(each["name"]) for each in sorted(categories, key=lambda each: each["id"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []
