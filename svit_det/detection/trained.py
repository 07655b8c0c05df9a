"""Trained weights with the config that their file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from svit_det.annotations import read_json
from svit_det.detection.config_file import config_in, load_config
from svit_det.detection.datasets import num_classes
from svit_det.errors import InputError
from svit_det.shipped import existing_weights
from svit_det.weights.class_names import class_names_in
from svit_det.weights.files import read_checkpoint, read_description
from svit_det.weights.match import CLASS_TOKEN


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trained weights, and the data needed to run them."""

    cfg: CfgNode
    """The config with the overrides, and MODEL.WEIGHTS set to the file."""
    class_names: list[str] | None
    """Names in the order of the model's classes; None: unknown."""
    category_ids: list[int] | None
    """Ids of the classes in the json of the training set, in their order; None: unknown."""
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
    return Trained(
        cfg=cfg,
        class_names=class_names_of(cfg, said),
        category_ids=category_ids_of(cfg, said),
        said=said,
    )


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
    return config_in(text, options, source=f"the config in {path}")


def refuse_random_attention(cfg: CfgNode) -> None:
    """Refuse to draw a class token's attention with MODEL.WEIGHTS that have no class token.

    For a model whose policy shows attention. Raises InputError.
    """
    names = read_checkpoint(cfg.MODEL.WEIGHTS)["model"]
    if not any(name.endswith(CLASS_TOKEN) for name in names):
        raise InputError(
            f"--weights {cfg.MODEL.WEIGHTS}: has no class token, whose attention would be drawn; "
            "train a policy that has one, or convert weights with theirs."
        )


def class_names_of(cfg: CfgNode, said: Mapping[str, Any] | None = None) -> list[str] | None:
    """The names of the model's classes: from the file of weights, else from the config's sets.

    The names are those of the first set that is named in COCO_FORMAT and exists here, or that is
    registered with names; test sets come first. None: unknown.
    """
    count = num_classes(cfg.MODEL)
    known = (said or {}).get("classes")
    if known:
        return class_names_in(known, count, source=cfg.MODEL.WEIGHTS)
    files = {name: path for name, path, _ in cfg.DATASETS.COCO_FORMAT}
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = [each for _, each in _of_json(Path(files[name]))] if name in files else None
        # `get` alone would make an entry for a name that is not registered.
        if not names and name in MetadataCatalog.list():
            names = MetadataCatalog.get(name).get("thing_classes")
        if names and len(names) == count:
            return [str(each) for each in names]
    return None


def category_ids_of(cfg: CfgNode, said: Mapping[str, Any] | None = None) -> list[int] | None:
    """The ids of the model's classes in the json that it was trained on; None: unknown.

    A file of weights says them. For a file that does not, they are those of a set of the config
    whose json exists here and has the same classes.
    """
    known, classes = (said or {}).get("category_ids"), class_names_of(cfg, said)
    if _are_ids(known, num_classes(cfg.MODEL)):
        return list(known)
    files = {name: path for name, path, _ in cfg.DATASETS.COCO_FORMAT}
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        categories = _of_json(Path(files[name])) if name in files else []
        ids = [number for number, _ in categories]
        names = [each for _, each in categories]
        if names == classes and _are_ids(ids, num_classes(cfg.MODEL)):
            return ids
    return None


def _are_ids(known: Any, number: int) -> bool:
    is_list = isinstance(known, list) and all(type(each) is int for each in known)
    return is_list and len(known) == len(set(known)) == number


def _of_json(path: Path) -> list[tuple[Any, str]]:
    """Id and name of each category, sorted by id as in detectron2; empty if there are none."""
    try:
        categories = read_json(str(path))["categories"]
        found = sorted(categories, key=lambda each: each["id"])
        return [(each["id"], str(each["name"])) for each in found]
    except (InputError, KeyError, TypeError):
        return []
