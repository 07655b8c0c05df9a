"""The optimiser's groups: who is spared weight decay."""

import pytest
import torch
from torch import nn

from svit_det.detection.solver import build_optimizer
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError

TRUNK = "backbone.net.net.trunk"


@pytest.fixture
def grouped(tiny_model, tiny_config):
    """Names of the parameters (with decay, without) of the tiny model."""
    model = tiny_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {names[id(parameter)] for parameter in group["params"]}
        for group in build_optimizer(tiny_config(), model).param_groups
    ]


@pytest.mark.parametrize(
    "name",
    [
        f"{TRUNK}.pos_embed",
        f"{TRUNK}.blocks.0.norm1.weight",
        f"{TRUNK}.blocks.2.attn.qkv.bias",
        f"{TRUNK}.patch_embed.proj.bias",
        f"{TRUNK}.policy.gates.1.norm.weight",
        "backbone.simfp_3.0.norm.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
    ],
)
def test_spared(grouped, name):
    assert name in grouped[1]


@pytest.mark.parametrize(
    "name",
    [
        f"{TRUNK}.patch_embed.proj.weight",
        f"{TRUNK}.blocks.1.mlp.fc2.weight",
        f"{TRUNK}.policy.gates.2.fc1.weight",
        "backbone.simfp_2.0.weight",
        "roi_heads.box_predictor.cls_score.weight",
    ],
)
def test_decayed(grouped, name):
    assert name in grouped[0]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.level_embed = nn.Parameter(torch.ones(1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.fc = nn.Linear(2, 2)
        self.shared = self.fc


def test_every_trainable_parameter_exactly_once(tiny_model, tiny_config):
    for model in (tiny_model(), Toy()):
        optimizer = build_optimizer(tiny_config(), model)
        inside = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(inside) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_level_embed_and_decay_values(tiny_config):
    model = Toy()
    cfg = tiny_config("SOLVER.WEIGHT_DECAY", 0.25, "SOLVER.BASE_LR", 0.5)
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(model.level_embed)] == 0
    assert decay[id(model.fc.bias)] == 0
    assert decay[id(model.fc.weight)] == 0.25
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_words_are_those_of_the_config(tiny_config):
    cfg = tiny_config("SOLVER.NO_WEIGHT_DECAY", "['fc']")
    decayed, spared = (len(group["params"]) for group in build_optimizer(cfg, Toy()).param_groups)
    assert (decayed, spared) == (1, 2)


def test_sgd(tiny_config):
    cfg = tiny_config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.75)
    optimizer = build_optimizer(cfg, Toy())
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0.75


def test_unknown_optimiser(tiny_config):
    with pytest.raises(InputError, match=r"SOLVER\.OPTIMIZER: no 'ADAM'.*ADAMW"):
        build_optimizer(tiny_config("SOLVER.OPTIMIZER", "ADAM"), Toy())


def test_gradients_are_clipped_where_the_config_says_so(tiny_config):
    clipping = (
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True),
        *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),
    )
    for options, norm in (((), 20.0), (clipping, 0.5)):
        model = Toy()
        optimizer = build_optimizer(tiny_config(*options), model)
        model.fc.weight.grad = torch.full((2, 2), 10.0)
        optimizer.step()
        assert isinstance(optimizer, torch.optim.AdamW)
        assert model.fc.weight.grad.norm().item() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", ["WarmupStepWithFixedGammaLR", "WarmupMultiStepLR"])
def test_a_schedule_survives_the_step_behind_the_last(tiny_config, name):
    """detectron2 asks for it when a training ends, before the last checkpoint is written."""
    cfg = tiny_config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.NUM_DECAYS", 2)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = TokenTrainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    wanted = [1.0, 0.1, 0.01] if name == "WarmupStepWithFixedGammaLR" else [1.0] * 3
    assert rates == pytest.approx(wanted)
