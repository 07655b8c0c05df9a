"""Registering COCO-format sets from a config, and reporting their problems early."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import shorten

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from svit_det.annotations import (
    Demands,
    Examined,
    cleaned_file,
    examine,
    list_file,
    read_json,
    remove_cleaned,
    was_cleaned,
    write_cleaned,
)
from svit_det.errors import InputError, printable

logger = logging.getLogger(__name__)

SET_ANEW = ("name", "json_file", "evaluator_type")
"""The metadata that detectron2 sets when a set is registered."""


def prepare_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Register `DATASETS.COCO_FORMAT` and check the sets that this run will read.

    Relative paths are relative to the folder in which the program is started. If a set has unusable
    entries and DATASETS.SKIP_BAD is set, the run reads the set from a cleaned file in its
    OUTPUT_DIR. Raises InputError for a set that is not registered, a missing file, a json that is
    not COCO, another number of classes than the model's, and unusable entries.
    """
    register_datasets(cfg)
    wanted = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[wanted]:
        raise InputError(f"DATASETS.{wanted} is empty; name at least one data set.")
    trained = cfg.DATASETS.TRAIN if training else ()
    for name in dict.fromkeys([*trained, *cfg.DATASETS.TEST]):
        if name not in DatasetCatalog:
            raise InputError(
                f"DATASETS: no data set '{name}' is registered; add it to DATASETS.COCO_FORMAT."
            )
        if not hasattr(MetadataCatalog.get(name), "json_file"):
            _try_reading(name)
            continue
        demands = Demands(
            trained=name in trained,
            evaluated=name in cfg.DATASETS.TEST,
            masks=cfg.MODEL.MASK_ON,
            num_classes=num_classes(cfg.MODEL),
            class_key=class_key(cfg.MODEL),
        )
        examined = examine(original_json(name), MetadataCatalog.get(name).image_root, demands)
        _accept(examined, demands, cfg, name)


def _try_reading(name: str) -> None:
    """Read a set that has no json once, before anything is built, for the files that it lacks.

    detectron2's own readers of such sets say it by errors of many kinds.
    """
    try:
        DatasetCatalog.get(name)
    except (OSError, AssertionError, ImportError) as error:
        said = shorten(printable(error), 200, placeholder=" ...") or type(error).__name__
        raise InputError(
            f"DATASETS: the set '{name}' cannot be read ({said.rstrip('.')})."
        ) from error


def register_datasets(cfg: CfgNode) -> None:
    """Register `DATASETS.COCO_FORMAT`, without looking at the files.

    With DATASETS.SKIP_BAD, a set that `prepare_datasets` has cleaned, perhaps in another process of
    the run, is read from its cleaned file. Raises InputError for a malformed entry and for a name
    that is registered with other files.
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
        known = MetadataCatalog.get(name)
        if not hasattr(known, "json_file"):
            raise InputError(f"DATASETS.COCO_FORMAT: '{name}' is registered already.")
        if (original_json(name), known.get("image_root")) != (annotations, images):
            raise InputError(
                f"DATASETS.COCO_FORMAT: '{name}' is registered already, with "
                f"{original_json(name)}; choose another name."
            )
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & set(DatasetCatalog.list()):
        if hasattr(MetadataCatalog.get(name), "json_file"):
            use = cfg.DATASETS.SKIP_BAD and was_cleaned(cfg.OUTPUT_DIR, name)
            cleaned = str(cleaned_file(cfg.OUTPUT_DIR, name))
            _read_from(name, cleaned if use else original_json(name))


def pictures_of_set(name: str) -> list[Path]:
    """The picture files of a registered set, in its order."""
    return [Path(each["file_name"]) for each in DatasetCatalog.get(name)]


def original_json(name: str) -> str:
    """The json that the set was registered with; the set may now be read from a cleaned file."""
    known = MetadataCatalog.get(name)
    return str(known.get("original_json", known.json_file))


def _read_from(name: str, json_file: str) -> None:
    """Have detectron2 read the registered set `name` from another json."""
    known, original = MetadataCatalog.get(name), original_json(name)
    if known.json_file == json_file:
        return
    said = {key: value for key, value in known.as_dict().items() if key not in SET_ANEW}
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    folder = said.pop("image_root")
    register_coco_instances(name, said | {"original_json": original}, json_file, folder)


def _accept(examined: Examined, demands: Demands, cfg: CfgNode, name: str) -> None:
    """Accept the set, as it is or cleaned. Raises InputError where it cannot be used."""
    path = examined.path
    for oddity in examined.findings.oddities():
        logger.warning("%s: %s.", path, oddity)
    if not examined.is_whole and not cfg.DATASETS.SKIP_BAD:
        raise InputError(
            f"{path}: {examined.problems()}; correct them, or go on without them with --skip-bad "
            "(DATASETS.SKIP_BAD True)."
        )
    if demands.trained and not examined.trainable:
        raise InputError(f"{path}: there is no object in it to train on.")
    if examined.is_whole:
        _read_from(name, original_json(name))
        remove_cleaned(cfg.OUTPUT_DIR, name)
        return
    cleaned = write_cleaned(examined, cfg.OUTPUT_DIR, name)
    logger.warning(
        "%s: %s; left out, as %s says.",
        path,
        examined.problems(),
        list_file(cfg.OUTPUT_DIR, name),
    )
    _read_from(name, str(cleaned))


def epochs_of(cfg: CfgNode) -> float | None:
    """The number of times a training sees each picture of its sets; None for a set without json."""
    pictures = 0
    for name in cfg.DATASETS.TRAIN:
        path = MetadataCatalog.get(name).get("json_file")
        if path is None:
            return None
        pictures += len(read_json(path)["images"])
    return cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / max(pictures, 1)


def class_key(model: CfgNode) -> str:
    """The key that holds the number of classes of the heads of `MODEL`."""
    dense = "RetinaNet" in model.META_ARCHITECTURE
    return f"MODEL.{'RETINANET' if dense else 'ROI_HEADS'}.NUM_CLASSES"


def num_classes(model: CfgNode) -> int:
    """The number of classes of the heads of `MODEL`."""
    return model[class_key(model).split(".")[1]].NUM_CLASSES
