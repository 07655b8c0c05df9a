"""Making a model's input from a data set's record: reading, resizing, flipping, annotations."""

from __future__ import annotations

import copy
import logging
import multiprocessing

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    SizeMismatchError,
    annotations_to_instances,
    check_image_size,
)

from svit_det.detection.flips import FlipOfAnyShape
from svit_det.errors import InputError
from svit_det.images import read_image

logger = logging.getLogger(__name__)

LONGEST_BEFORE_CROP = 4200
"""Pixels. The recipe sets no limit, but resizing an image of one pixel's height must not fill the
memory."""


class ResizeToAtLeastOnePixel(T.ResizeShortestEdge):
    """ResizeShortestEdge whose result has no side of 0, even for very long and thin images."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize for this image."""
        height, width = image.shape[:2]
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return T.NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, size, self.max_size)
        return T.ResizeTransform(height, width, max(new_height, 1), max(new_width, 1), self.interp)


class CropOfAtLeastOnePixel(T.RandomCrop):
    """RandomCrop whose result has no side of 0: half of one pixel would be rounded to 0."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the crop for an image of this (height, width)."""
        height, width = super().get_crop_size(image_size)
        return max(height, 1), max(width, 1)


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Crop (in training, if the config says so), resize, flip; with detectron2's keys."""
    if is_train:
        sizes, largest = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
        resize = ResizeToAtLeastOnePixel(sizes, largest, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    else:
        sizes, largest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        resize = ResizeToAtLeastOnePixel(sizes, largest, "choice")
    augmentations: list[T.Augmentation] = [resize]
    if not is_train:
        return augmentations
    if cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, CropOfAtLeastOnePixel(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    if cfg.INPUT.DETR_CROP.ENABLED:
        augmentations = detr_crop(cfg, resize)
    flips = {"none": (), "horizontal": ("h",), "vertical": ("v",), "both": ("h", "v")}
    augmentations += [
        FlipOfAnyShape(horizontal=axis == "h", vertical=axis == "v")
        for axis in flips[cfg.INPUT.RANDOM_FLIP]
    ]
    return augmentations


def detr_crop(cfg: CfgNode, resize: T.Augmentation) -> list[T.Augmentation]:
    """The augmentation of `INPUT.DETR_CROP`; for every second image a crop comes before `resize`.

    Source: DETR (Carion et al. 2020), and the final crop of SViT's recipe.
    """
    keys = cfg.INPUT.DETR_CROP
    smallest, largest = keys.CROP_SIZE if len(keys.CROP_SIZE) == 2 else (0, 0)
    if not 0 < smallest <= largest:
        raise InputError(
            f"INPUT.DETR_CROP.CROP_SIZE: {list(keys.CROP_SIZE)} must be [smallest, largest]."
        )
    if cfg.INPUT.CROP.ENABLED:
        raise InputError("INPUT.DETR_CROP.ENABLED and INPUT.CROP.ENABLED: choose one of them.")
    if not keys.MIN_SIZES or min(keys.MIN_SIZES) < 1 or keys.FINAL_SIZE < 1:
        raise InputError(
            f"INPUT.DETR_CROP: MIN_SIZES {list(keys.MIN_SIZES)} and FINAL_SIZE {keys.FINAL_SIZE} "
            "must be numbers from 1 up."
        )
    first = T.AugmentationList(
        [
            ResizeToAtLeastOnePixel(tuple(keys.MIN_SIZES), LONGEST_BEFORE_CROP, "choice"),
            T.RandomCrop("absolute_range", (smallest, largest)),
        ]
    )
    final = T.RandomCrop("absolute", (keys.FINAL_SIZE, keys.FINAL_SIZE))
    return [T.RandomApply(first, prob=0.5), resize, final]


class TokenDatasetMapper(DatasetMapper):
    """detectron2's DatasetMapper that reads any image mode and skips bad files in training.

    In training an unreadable image is named in the log, with the count so far over all loader
    processes, and skipped; another image is drawn in its place. In evaluation an unreadable image
    is an error, because a missing image would falsify the result.
    """

    @configurable
    def __init__(self, is_train: bool, **kwargs) -> None:
        super().__init__(is_train, **kwargs)
        self._skipped = multiprocessing.Value("i", 0)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """`DatasetMapper`'s arguments. Its own `from_config` knows no flip along both axes."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": cfg.MODEL.MASK_ON
            and (cfg.INPUT.CROP.ENABLED or cfg.INPUT.DETR_CROP.ENABLED),
        }

    def __call__(self, dataset_dict: dict) -> dict | None:
        """One record in detectron2's format -> one model input, or None for a skipped image."""
        record = copy.deepcopy(dataset_dict)
        try:
            image = read_image(record["file_name"], self.image_format)
        except InputError as error:
            if not self.is_train:
                raise
            with self._skipped.get_lock():
                self._skipped.value += 1
                logger.warning("Skipped in training (%d so far): %s", self._skipped.value, error)
            return None
        try:
            check_image_size(record, image)
        except SizeMismatchError as error:
            raise InputError(
                f"{record['file_name']}: {image.shape[1]} x {image.shape[0]} pixels, where the "
                f"annotations say {record['width']} x {record['height']}; correct the json."
            ) from error
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        # Always copied: NumPy calls a flipped image of one row contiguous, torch does not.
        pixels = augmented.image.transpose(2, 0, 1).copy()
        record["image"] = torch.from_numpy(pixels)
        if "annotations" in record:
            self._add_instances(record, transforms, augmented.image.shape[:2])
        return record

    def _add_instances(
        self, record: dict, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> None:
        """Turn the record's annotations into `instances`; an image may have none."""
        if not self.is_train:
            del record["annotations"]
        elif all(annotation.get("iscrowd", 0) for annotation in record["annotations"]):
            del record["annotations"]
            record["instances"] = annotations_to_instances([], image_size)
        else:
            try:
                self._transform_annotations(record, transforms, image_size)
            except ValueError as error:
                if "mask_format" not in str(error):
                    raise
                raise InputError(
                    f"{record['file_name']}: its masks are not polygons; set INPUT.MASK_FORMAT "
                    "bitmask, which reads every kind."
                ) from error
