"""A training that turns nan stops, says which loss, and keeps its last good checkpoint."""

import math

import pytest
import torch

from svit_det.classification.config import load_config
from svit_det.classification.processes import Processes
from svit_det.classification.run_files import FINAL, LAST
from svit_det.classification.trainer import Trainer
from svit_det.classification.weights import export_weights, save_weights
from svit_det.errors import InputError
from svit_det.training.finite import not_finite

HEAD = "head.weight"


@pytest.fixture
def trainer(a_yaml, small):
    """Factory: a training of two epochs of three steps, with two losses, under overrides."""

    def make(**changed):
        options = small(MODEL__TOKEN_POLICY__NAME="SViT", **changed)
        return Trainer(load_config(a_yaml, options), Processes(), torch.device("cpu"))

    return make


def before_step(trainer, number, spoil):
    """Call `spoil` before the step of this number."""
    run = trainer.step._task

    def counted(*arguments):
        if counted.steps == number:
            spoil()
        counted.steps += 1
        return run(*arguments)

    counted.steps = 0
    trainer.step._task = counted


def last_of(folder):
    return torch.load(folder / LAST, weights_only=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [3, 5])
def test_a_loss_that_is_not_finite(trainer, tmp_path, value, step):
    """The step is named, and the loss; the total alone would not tell."""
    training = trainer()
    policy = training.net.trunk.policy

    def spoil():
        losses = policy.losses
        policy.losses = lambda *given: {k: v * 0 + value for k, v in losses(*given).items()}

    before_step(training, step, spoil)
    said = (
        rf"^Step {step} of the training: loss_keep_ratio is {value}; this step changed no weights"
    )
    with pytest.raises(InputError, match=said):
        training.train()
    left = last_of(tmp_path / "run")
    assert left["epoch"] == 1 and not not_finite(left["model"])
    assert not not_finite(training.net.state_dict())
    assert not (tmp_path / "run" / FINAL).exists()


def test_a_gradient_that_is_not_finite_at_the_last_step_of_an_epoch(trainer, tmp_path):
    """No loss tells it any more: the next one would be of the next epoch."""
    training = trainer()

    def spoil():
        training.net.head.weight.register_hook(lambda gradient: gradient * math.nan)

    before_step(training, 5, spoil)
    said = r"last\.pth: not written after step 5, because numbers are not finite in .*head\.weight"
    with pytest.raises(InputError, match=said):
        training.train()
    left = last_of(tmp_path / "run")
    assert left["epoch"] == 1 and not not_finite(left["model"])
    assert not (tmp_path / "run" / FINAL).exists()


@pytest.mark.parametrize("what", ["averaged weights", "optimiser"])
def test_other_parts_of_a_checkpoint(trainer, tmp_path, what):
    training = trainer(SOLVER__EMA_DECAY=0.5)
    training.epoch = 1

    def spoil():
        if what == "averaged weights":
            training.ema.module.head.weight.data[0, 0] = math.inf
        else:
            next(iter(training.optimizer.state.values()))["exp_avg_sq"].fill_(math.nan)

    images, labels = next(training._batches(training.loader))
    training.step(images, labels, number=0, time=0, times=1)
    training._save()
    before = (tmp_path / "run" / LAST).read_bytes()
    spoil()
    with pytest.raises(InputError, match=r"head\.weight \(averaged\)|parameter 0 exp_avg_sq"):
        training._save()
    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_trained_weights_that_are_not_finite_are_not_written(trainer, tmp_path):
    training = trainer()
    path = tmp_path / "best.pth"
    save_weights(training.net, path, training.cfg)
    before = path.read_bytes()
    with torch.no_grad():
        training.net.head.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"best\.pth: not written.* head\.weight"):
        save_weights(training.net, path, training.cfg)
    assert path.read_bytes() == before
    with torch.no_grad():
        training.net.head.weight[0, 0] = 1e6  # beyond half precision
    with pytest.raises(InputError, match=r"half\.safetensors: not written.* head\.weight"):
        export_weights(training.net, tmp_path / "half.safetensors", training.cfg, ["a", "b", "c"])
    assert not (tmp_path / "half.safetensors").exists()
