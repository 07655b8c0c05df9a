"""A trained detector on single images: detections and usage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.data import build_augmentations
from svit_det.errors import InputError
from svit_det.images import read_image
from svit_det.tokens import TokenGrid
from svit_det.vit import find_token_net


@dataclass(frozen=True)
class Prediction:
    """One image and what the model made of it. L blocks, H x W tokens of the image."""

    image: np.ndarray
    """(height, width, 3) uint8 RGB, as it was read."""
    instances: Instances
    """detectron2's, in pixels of `image`, on the CPU."""
    usage: np.ndarray
    """(L, H, W) bool: block l processed this token."""
    grid: TokenGrid
    """Which pixels of the image as the network saw it each token stands for."""
    attention: np.ndarray | None = None
    """(L, H, W) float, what the class token looked at in each block, under `AttentionProbe`."""
    macs: tuple[float, float] | None = None
    """Multiply-adds of the trunk for this image, and those of a dense trunk."""


class TokenPredictor:
    """Builds and loads the model of a config once, then runs it image by image."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.model = build_model(cfg).eval()
        if not cfg.MODEL.WEIGHTS:
            raise InputError("MODEL.WEIGHTS is empty; name the trained weights to draw with.")
        TokenCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self._augmentation = build_augmentations(cfg, False)[0]

    @property
    def class_names(self) -> list[str] | None:
        """Of the test set, where there is one that is registered and names them."""
        sets = self.cfg.DATASETS.TEST
        return MetadataCatalog.get(sets[0]).get("thing_classes") if sets else None

    def model_input(self, image: np.ndarray) -> dict:
        """(height, width, 3) uint8 RGB -> detectron2's input for one image."""
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "BGR":
            image = image[:, :, ::-1]
        resized = self._augmentation.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    @torch.no_grad()
    def __call__(self, path: str | Path) -> Prediction:
        """Read and run one image file. Raises InputError for a file that cannot be read."""
        image = read_image(path, "RGB")
        given = self.model_input(image)
        output = self.model([given])[0]
        attention = output.get("token_attention")
        return Prediction(
            image=image,
            instances=output["instances"].to("cpu"),
            usage=output["token_usage"].cpu().numpy(),
            grid=find_token_net(self.model).grid_of(*given["image"].shape[-2:]),
            attention=None if attention is None else attention.cpu().numpy(),
            macs=tuple(output["trunk_macs"]) if "trunk_macs" in output else None,
        )
