"""Registering COCO-format sets from a config, and saying early what is wrong with one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from svit_det.errors import InputError


def prepare_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Register `DATASETS.COCO_FORMAT` and check the sets that this run will read.

    Relative paths are meant from the folder the program is started in.
    Raises InputError for a set nobody registered, a missing file, a json that is not COCO, other
    classes than the model has, or annotations without masks where the model wants masks.
    """
    register_datasets(cfg)
    wanted = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[wanted]:
        raise InputError(f"DATASETS.{wanted} is empty; name at least one data set.")
    for name in [*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST]:
        if name not in DatasetCatalog:
            raise InputError(
                f"DATASETS: no data set '{name}' is registered; add it to DATASETS.COCO_FORMAT."
            )
        metadata = MetadataCatalog.get(name)
        if hasattr(metadata, "json_file"):
            check_coco_set(
                metadata.json_file,
                metadata.image_root,
                masks=cfg.MODEL.MASK_ON,
                classes=class_key(cfg.MODEL),
                num_classes=num_classes(cfg.MODEL),
                evaluated=name in cfg.DATASETS.TEST,
            )


def register_datasets(cfg: CfgNode) -> None:
    """Register `DATASETS.COCO_FORMAT`, without looking at the files.

    Raises InputError for a malformed entry and for a name that stands for other files already.
    """
    for entry in cfg.DATASETS.COCO_FORMAT:
        is_triple = isinstance(entry, (list, tuple)) and len(entry) == 3
        if not is_triple or not all(isinstance(part, str) for part in entry):
            raise InputError(
                f"DATASETS.COCO_FORMAT: {entry} is not of the form [name, json file, image folder]."
            )
        name, annotations, images = entry
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, annotations, images)
            continue
        metadata = MetadataCatalog.get(name)
        if (metadata.get("json_file"), metadata.get("image_root")) != (annotations, images):
            raise InputError(
                f"DATASETS.COCO_FORMAT: '{name}' is registered already, with "
                f"{metadata.get('json_file')}; choose another name."
            )


def check_coco_set(
    annotations: str,
    images: str,
    *,
    masks: bool,
    num_classes: int,
    evaluated: bool,
    classes: str = "MODEL.ROI_HEADS.NUM_CLASSES",
) -> None:
    """Raise InputError unless `annotations` is a COCO instance json for the folder `images`.

    `evaluated`: COCO's evaluation will read it, which needs more fields than training. `classes`:
    the key that `num_classes` comes from.
    """
    content = _read_json(annotations)
    wanted = ("images", "annotations", "categories")
    missing = [key for key in wanted if not isinstance(_get(content, key), list)]
    if missing:
        raise InputError(f"{annotations}: not a COCO instance file, it has no list '{missing[0]}'.")
    fields = {
        "images": ("id", "file_name", "height", "width"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }
    if evaluated:
        fields["annotations"] += ("area", "iscrowd")
    for where, names in fields.items():
        _check_fields(annotations, where, content[where], names)
    _check_categories(annotations, content, num_classes, classes)
    objects = content["annotations"]
    if len({entry["id"] for entry in objects}) != len(objects):
        raise InputError(f"{annotations}: some annotations share an 'id'; number them anew.")
    if not evaluated and all(entry.get("iscrowd") for entry in objects):
        raise InputError(f"{annotations}: there is no object in it to train on.")
    bare = next((entry for entry in objects if not entry.get("segmentation")), None)
    if masks and bare:
        raise InputError(
            f"{annotations}: annotation {bare['id']} has no segmentation; add masks, or set "
            "MODEL.MASK_ON False to train boxes only."
        )
    folder = Path(images)
    if not folder.is_dir():
        raise InputError(f"{images}: no such folder of images (for {annotations}).")
    if not any((folder / entry["file_name"]).is_file() for entry in content["images"]):
        raise InputError(f"{images}: none of the images of {annotations} is in this folder.")


def epochs_of(cfg: CfgNode) -> float | None:
    """How often a training sees each picture of its sets; None where a set has no json."""
    pictures = 0
    for name in cfg.DATASETS.TRAIN:
        path = MetadataCatalog.get(name).get("json_file")
        content = _read_json(path) if path else None
        images = _get(content, "images")
        if not isinstance(images, list):
            return None
        pictures += len(images)
    return cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / max(pictures, 1)


def _read_json(path: str) -> object:
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        hint = "" if os.environ.get("DETECTRON2_DATASETS") else "; $DETECTRON2_DATASETS is not set"
        raise InputError(f"{path}: cannot be read ({error.strerror}){hint}.") from error
    except ValueError as error:
        raise InputError(f"{path}: not a json file ({error}).") from error


def class_key(model: CfgNode) -> str:
    """The key that says how many classes the heads of `MODEL` have."""
    dense = "RetinaNet" in model.META_ARCHITECTURE
    return f"MODEL.{'RETINANET' if dense else 'ROI_HEADS'}.NUM_CLASSES"


def num_classes(model: CfgNode) -> int:
    """How many classes the heads of `MODEL` have."""
    return model[class_key(model).split(".")[1]].NUM_CLASSES


def _check_categories(path: str, content: dict, num_classes: int, key: str) -> None:
    ids = {entry["id"] for entry in content["categories"]}
    if len(ids) != num_classes:
        raise InputError(
            f"{path}: {len(ids)} categories for {key} {num_classes}; "
            "the model needs one class for each."
        )
    unknown = [e["id"] for e in content["annotations"] if e["category_id"] not in ids]
    if unknown:
        raise InputError(f"{path}: annotation {unknown[0]} is of a category that is not listed.")


def _get(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, dict) else None


def _check_fields(path: str, where: str, entries: Iterable[dict], fields: Iterable[str]) -> None:
    for entry in entries:
        for field in fields:
            if _get(entry, field) is None:
                raise InputError(f"{path}: an entry of '{where}' has no '{field}': {entry}"[:300])
