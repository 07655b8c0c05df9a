"""The curves of a training that was stopped and goes on are those of one that nothing stops."""

from pathlib import Path

import pytest
import torch

from svit_det.classification.config import load_config
from svit_det.classification.diary import Diary
from svit_det.classification.processes import Processes
from svit_det.classification.trainer import Trainer

HERE = Processes()
EPOCHS = 3


@pytest.fixture
def training(a_yaml, small):
    """Factory: a trainer in this folder."""

    def make(folder, **changed):
        options = small(SOLVER__EPOCHS=EPOCHS, SOLVER__BASE_LR=0.05, OUTPUT_DIR=folder, **changed)
        return Trainer(load_config(a_yaml, options), HERE, torch.device("cpu"))

    return make


def stopped_before(count, monkeypatch, trainer):
    """Run the training until it would evaluate for the `count`-th time."""
    seen, evaluate = [], trainer.evaluate

    def stop():
        seen.append(1)
        if len(seen) == count:
            raise KeyboardInterrupt
        return evaluate()

    monkeypatch.setattr(trainer, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    # Tensorboard reads files by the second and the number in their names, and would take the tenth
    # file of a process for one before the ninth. This training was stopped a minute ago.
    for file in Path(trainer.cfg.OUTPUT_DIR).glob("events.out.tfevents.*"):
        begun = file.name.split(".")[3]
        file.rename(file.with_name(file.name.replace(begun, f"{int(begun) - 60:010d}", 1)))


@pytest.mark.parametrize("count", range(1, EPOCHS + 1))
def test_the_evaluation_that_was_missed(training, points_of, tmp_path, monkeypatch, count):
    training(tmp_path / "whole").train()
    stopped_before(count, monkeypatch, training(tmp_path / "stopped"))
    missing = points_of(tmp_path / "stopped").get("val/top1", [])
    assert len(missing) == count - 1  # the checkpoint of this epoch is there
    again = training(tmp_path / "stopped")
    again.resume()
    assert again.epoch == count
    again.train()
    assert points_of(tmp_path / "stopped") == points_of(tmp_path / "whole")


def test_steps_after_the_checkpoint_are_not_shown_twice(training, points_of, tmp_path, monkeypatch):
    """Here there is no checkpoint yet: everything is done again."""
    once = {"SOLVER__CHECKPOINT_EPOCHS": EPOCHS}
    training(tmp_path / "whole", **once).train()
    stopped_before(2, monkeypatch, training(tmp_path / "stopped", **once))
    assert points_of(tmp_path / "stopped")["val/top1"]
    again = training(tmp_path / "stopped", **once)
    again.resume()
    assert again.epoch == 0
    again.train()
    assert points_of(tmp_path / "stopped") == points_of(tmp_path / "whole")


def test_no_evaluation_where_none_is_due(training, tmp_path, monkeypatch):
    every_second = {"SOLVER__EVAL_EPOCHS": 2}
    first = training(tmp_path / "run", **every_second)
    with Diary(tmp_path / "run", HERE) as diary:
        first._run_epoch(diary)
    first.epoch = 1
    first._save()
    again, asked = training(tmp_path / "run", **every_second), []
    again.resume()
    evaluate = again.evaluate
    monkeypatch.setattr(again, "evaluate", lambda: asked.append(again.epoch) or evaluate())
    again.train()
    assert asked == [2, 3]
