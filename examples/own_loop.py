#!/usr/bin/env python3
"""A training loop of your own, which shows the steps that TokenTrainer takes.

    python examples/own_loop.py CONFIG_FILE [KEY VALUE ...]

A loop needs the optimiser's groups and the mapper of this project, and an EventStorage that tells
the model the number of the step. The model itself adds the policy's losses and tracks its
statistics.
"""

import sys

from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.description import describe_run
from svit_det.detection.solver import build_optimizer


def train(cfg):
    """Train SOLVER.MAX_ITER steps and write OUTPUT_DIR/model_final.pth; returns the losses."""
    prepare_datasets(cfg, training=True)
    model = build_model(cfg).train()
    TokenCheckpointer(model, fresh_classes=True).load(cfg.MODEL.WEIGHTS)
    optimizer = build_optimizer(cfg, model)
    loader = build_detection_train_loader(cfg, mapper=TokenDatasetMapper(cfg, True))
    history = []
    with EventStorage() as storage:
        for batch, _ in zip(loader, range(cfg.SOLVER.MAX_ITER)):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append({name: float(loss.detach()) for name, loss in losses.items()})
            storage.step()
        saver = TokenCheckpointer(model, cfg.OUTPUT_DIR, describe=lambda: describe_run(cfg))
        saver.save("model_final")
    return history


if __name__ == "__main__":
    for number, said in enumerate(train(load_config(sys.argv[1], sys.argv[2:]))):
        print(number, {name: round(value, 3) for name, value in said.items()})
