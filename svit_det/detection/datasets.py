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
    Raises InputError for a set nobody registered, a missing file, a json that is not COCO, or
    annotations without masks where the model wants masks.
    """
    for entry in cfg.DATASETS.COCO_FORMAT:
        if len(entry) != 3:
            raise InputError(
                f"DATASETS.COCO_FORMAT: {entry} is not of the form [name, json file, image folder]."
            )
        name, annotations, images = entry
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, annotations, images)
    for name in [*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST]:
        if name not in DatasetCatalog:
            raise InputError(
                f"DATASETS: no data set '{name}' is registered; add it to DATASETS.COCO_FORMAT."
            )
        metadata = MetadataCatalog.get(name)
        if hasattr(metadata, "json_file"):
            check_coco_set(metadata.json_file, metadata.image_root, masks=cfg.MODEL.MASK_ON)


def check_coco_set(annotations: str, images: str, *, masks: bool) -> None:
    """Raise InputError unless `annotations` is a COCO instance json for the folder `images`."""
    try:
        content = json.loads(Path(annotations).read_bytes())
    except OSError as error:
        hint = "" if os.environ.get("DETECTRON2_DATASETS") else "; is $DETECTRON2_DATASETS set?"
        raise InputError(f"{annotations}: cannot be read ({error.strerror}){hint}") from error
    except ValueError as error:
        raise InputError(f"{annotations}: not a json file ({error}).") from error
    wanted = ("images", "annotations", "categories")
    missing = [key for key in wanted if not isinstance(_get(content, key), list)]
    if missing:
        raise InputError(f"{annotations}: not a COCO instance file, it has no list '{missing[0]}'.")
    _check_fields(annotations, "images", content["images"], ("id", "file_name", "height", "width"))
    _check_fields(
        annotations, "annotations", content["annotations"], ("image_id", "category_id", "bbox")
    )
    if masks and not all(entry.get("segmentation") for entry in content["annotations"]):
        raise InputError(
            f"{annotations}: there are annotations without a segmentation; add masks, or set "
            "MODEL.MASK_ON False to train boxes only."
        )
    if not Path(images).is_dir():
        raise InputError(f"{images}: no such folder of images (for {annotations}).")


def _get(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, dict) else None


def _check_fields(path: str, where: str, entries: Iterable[dict], fields: Iterable[str]) -> None:
    for entry in entries:
        for field in fields:
            if _get(entry, field) is None:
                raise InputError(f"{path}: an entry of '{where}' has no '{field}': {entry}"[:300])
