"""A training that turns nan stops, says which loss, and keeps its last good checkpoint."""

import math

import pytest
import torch

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.trainer import TokenTrainer, load_teacher
from svit_det.errors import InputError
from svit_det.training.finite import not_finite
from svit_det.vit import find_token_net

NAME = "backbone.net.net.trunk.blocks.0.mlp.fc1.weight"


@pytest.fixture
def trainer(tiny_config, tmp_path):
    """Factory: a training of three steps, each with a checkpoint, under overrides."""

    def make(*options):
        options = ("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 1, *options)
        cfg = tiny_config("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()", *options)
        prepare_datasets(cfg, training=True)
        return TokenTrainer(cfg)

    return make


def after(trainer, steps, spoil):
    """Spoil something before the step of this number."""

    class Spoiler(type(trainer._trainer)):
        def run_step(self):
            if self.iter == steps:
                spoil(self)
            super().run_step()

    trainer._trainer.__class__ = Spoiler


def last_of(folder):
    name = (folder / "last_checkpoint").read_text()
    return torch.load(folder / name, weights_only=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(trainer, tmp_path, value):
    training = trainer()

    def spoil(inner):
        model = inner.model
        run = model.forward
        model.forward = lambda batch: {**run(batch), "loss_mask": torch.tensor(value) * 1.0}

    after(training, 2, spoil)
    with pytest.raises(InputError, match=f"^Step 2 of the training: loss_mask is {value}; "):
        training.train()
    left = last_of(tmp_path)
    assert left["iteration"] == 1 and not not_finite(left["model"])
    assert not (tmp_path / "model_final.pth").exists()


def test_proposals_that_are_not_finite(trainer, tmp_path):
    """detectron2 raises its own error before there are losses."""
    training = trainer()

    def spoil(inner):
        with torch.no_grad():
            inner.model.proposal_generator.rpn_head.conv.weight.fill_(3e38)

    after(training, 2, spoil)
    with pytest.raises(InputError, match=r"^Step 2 of the training: .* proposals are not finite; "):
        training.train()
    assert last_of(tmp_path)["iteration"] == 1


def test_weights_that_are_not_finite_are_not_kept(trainer, tmp_path):
    """A gradient may be nan although its loss was not."""
    training = trainer()

    def spoil(inner):
        step = inner.optimizer.step

        def worse(*arguments):
            step(*arguments)
            with torch.no_grad():
                dict(inner.model.named_parameters())[NAME][0, 0] = math.nan

        inner.optimizer.step = worse

    after(training, 2, spoil)
    with pytest.raises(InputError, match=rf"model_0000002\.pth: not written.*{NAME}"):
        training.train()
    assert last_of(tmp_path)["iteration"] == 1
    assert not (tmp_path / "model_final.pth").exists()


def test_an_optimiser_that_is_not_finite_is_not_resumed(trainer, tmp_path):
    trainer("SOLVER.MAX_ITER", 1).train()
    content = last_of(tmp_path)
    state = content["trainer"]["_trainer"]["optimizer"]["state"]
    state[3]["exp_avg"].fill_(math.nan)
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match=r"optimiser holds .* not finite \(parameter 3 exp_avg\)"):
        trainer().resume_or_load(resume=True)
    assert last_of(tmp_path)["iteration"] == 0


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite_are_not_loaded(tiny_model, tiny_config, tmp_path, value):
    model = tiny_model()
    weights = model.state_dict()
    weights["backbone.net.net.trunk.policy.budget.kept_share"][0] = value
    torch.save({"model": weights}, tmp_path / "bad.pth")
    said = r"bad\.pth: holds numbers that are not finite in .*budget\.kept_share"
    with pytest.raises(InputError, match=said):
        TokenCheckpointer(tiny_model()).load(str(tmp_path / "bad.pth"))


def test_a_teacher_that_is_not_finite(tiny_model, tmp_path):
    model = tiny_model("MODEL.TOKEN_POLICY.NAME", "Dense")
    weights = model.state_dict()
    weights[NAME][0, 0] = math.nan
    torch.save({"model": weights}, tmp_path / "bad.pth")
    net = find_token_net(model)
    with pytest.raises(InputError, match=r"bad\.pth.*not finite"):
        load_teacher(net, "backbone.net.net", str(tmp_path / "bad.pth"))


# ------------------------------------------------------------------ a resume that is another run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("MODEL.TOKEN_POLICY.NAME", "Random"), "MODEL.TOKEN_POLICY.NAME SViT cannot go on with R"),
        (("MODEL.TOKEN_POLICY.WRAPPERS", "['Monotone']"), r"WRAPPERS \[\] cannot go on with"),
        (("SOLVER.OPTIMIZER", "SGD"), "SOLVER.OPTIMIZER ADAMW cannot go on with SGD"),
        (("SOLVER.NO_WEIGHT_DECAY", "['bias']"), r"SOLVER.NO_WEIGHT_DECAY \['norm', 'bias'"),
    ],
)
def test_another_run_is_refused(trainer, tmp_path, options, said):
    trainer("SOLVER.MAX_ITER", 1).train()
    with pytest.raises(InputError, match=said):
        trainer(*options).resume_or_load(resume=True)


def test_an_optimiser_of_other_parameters_is_refused(trainer, tmp_path):
    trainer("SOLVER.MAX_ITER", 1).train()
    content = last_of(tmp_path)
    content["trainer"]["_trainer"]["optimizer"]["param_groups"].pop()
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match="optimiser's state is of other parameters"):
        trainer().resume_or_load(resume=True)


def test_another_number_of_processes_is_refused(trainer, tmp_path):
    trainer("SOLVER.MAX_ITER", 1).train()
    content = last_of(tmp_path)
    content["trainer"]["hooks"]["RunState"]["identity"]["number of processes"] = 2
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match="number of processes 2 cannot go on with 1"):
        trainer().resume_or_load(resume=True)


def test_its_weights_may_begin_another_run(trainer, tmp_path):
    trainer("SOLVER.MAX_ITER", 1).train()
    other = trainer("SOLVER.OPTIMIZER", "SGD", "MODEL.WEIGHTS", tmp_path / "model_final.pth")
    other.resume_or_load(resume=False)


def test_a_random_seed_is_carried_over(trainer, tmp_path):
    first = trainer("SOLVER.MAX_ITER", 1, "SEED", -1)
    first.train()
    second = trainer("SEED", -1)
    assert second._run.seed != first._run.seed
    second.resume_or_load(resume=True)
    assert second._run.seed == first._run.seed
