#!/usr/bin/env python3
"""A training loop of your own: what TokenTrainer does, in the open.

    python examples/own_loop.py CONFIG_FILE [KEY VALUE ...]

A loop has to bring our optimiser's groups and our mapper, and an EventStorage that tells the model
its step; the model adds the policy's losses and follows its statistics by itself.
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
    """SOLVER.MAX_ITER steps; the weights go to OUTPUT_DIR/model_final.pth. Returns the losses."""
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
