#!/usr/bin/env python3
"""Detections in the way of detectron2's own demo: get_cfg, DefaultPredictor, Visualizer.

    python examples/detectron2_demo.py CONFIG_FILE WEIGHTS PICTURE RESULT.png

WEIGHTS is a .pth file, because detectron2's checkpointer reads no .safetensors files.
`svit_det.detection.Predictor` reads both, takes more kinds of pictures and tells which tokens each
block kept.
"""

import sys

import cv2
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer

from svit_det.detection import add_svit_config


def draw(config_file, weights, picture, result):
    """Write the picture with its detections; returns detectron2's instances."""
    cfg = get_cfg()
    add_svit_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(["MODEL.WEIGHTS", weights])
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    image = cv2.imread(picture)  # BGR, which DefaultPredictor expects
    instances = DefaultPredictor(cfg)(image)["instances"].to("cpu")
    drawn = Visualizer(image[:, :, ::-1]).draw_instance_predictions(instances)
    cv2.imwrite(result, drawn.get_image()[:, :, ::-1])
    return instances


if __name__ == "__main__":
    print(len(draw(*sys.argv[1:5])), "detections")
