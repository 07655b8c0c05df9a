#!/usr/bin/env python3
"""A training loop of your own: the least that trains a token-pruned detector.

    python examples/own_loop.py CONFIG_FILE [KEY VALUE ...]

A loop needs the optimiser's groups, the schedule and the mapper of this project, and an
EventStorage that tells the model the number of the step. The model itself adds the policy's losses
and tracks its statistics.

The loop leaves out what TokenTrainer adds: SOLVER.AMP, the frozen parts and the teachers of the
policies that have them, the check that losses are finite, several processes, checkpoints on the
way with --resume, an order of the images that depends on the seed alone, logs and evaluation.
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
from svit_det.detection.solver import build_optimizer, build_schedule


def train(cfg):
    """Train SOLVER.MAX_ITER steps and write OUTPUT_DIR/model_final.pth; returns the losses."""
    prepare_datasets(cfg, training=True)
    model = build_model(cfg).train()
    TokenCheckpointer(model, fresh_classes=True).load(cfg.MODEL.WEIGHTS)
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    loader = build_detection_train_loader(cfg, mapper=TokenDatasetMapper(cfg, True))
    history = []
    with EventStorage() as storage:
        for batch, _ in zip(loader, range(cfg.SOLVER.MAX_ITER)):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
            history.append({name: float(loss.detach()) for name, loss in losses.items()})
            storage.step()
        saver = TokenCheckpointer(model, cfg.OUTPUT_DIR, describe=lambda: describe_run(cfg))
        saver.save("model_final")
    return history


if __name__ == "__main__":
    for number, said in enumerate(train(load_config(sys.argv[1], sys.argv[2:]))):
        print(number, {name: round(value, 3) for name, value in said.items()})
