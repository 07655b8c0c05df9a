"""The recipes on the photographs: what they set, and what learns under them."""

from pathlib import Path

import pytest
import torch

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.evaluation import image_macs
from svit_det.classification.processes import Processes
from svit_det.classification.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "photographs"
# Epochs, batch, base rate, weight decay, and the beginnings of what learns.
ENDS = ("norm.", "head.")
RECIPES = {
    "dense": (5, 10, 3e-4, 0.05, ("trunk.blocks.10.", "trunk.blocks.11.", *ENDS)),
    "svit": (3, 5, 3e-3, 0.0, ("trunk.policy.gates.", *ENDS)),
}
# What each arm of the comparison has of its own.
OWN = {
    "a_vit": ("trunk.blocks.",),  # no parameters: the blocks write the channel that halts
    "adavit": tuple(f"trunk.policy.decisions.{each}." for each in ("tokens", "heads", "layers")),
    "ats": (),
    "dense": (),
    "dynamic_vit": tuple(f"trunk.policy.predictors.{layer}." for layer in (3, 6, 9)),
    "evit": (),
    "evo_vit": (),
    "ia_red2": tuple(f"trunk.policy.agents.{layer}." for layer in (0, 4, 8)),
    "random": (),
    "spvit": tuple(f"trunk.policy.selectors.{layer}." for layer in (3, 6, 9)),
    "svit": tuple(f"trunk.policy.gates.{layer}." for layer in range(3, 12)),
}
LEARNS = {name: recipe[-1] for name, recipe in RECIPES.items()}
LEARNS |= {f"compare/{name}": (*own, *ENDS) for name, own in OWN.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_what_each_yaml_sets(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    solver = cfg.SOLVER
    epochs, batch, rate, decay, _ = RECIPES[name]
    assert (epochs, batch, rate) == (solver.EPOCHS, solver.BATCH_SIZE, solver.BASE_LR)
    assert decay == solver.WEIGHT_DECAY and solver.RATE_BATCH == 0 and solver.AMP
    assert (cfg.MODEL.NUM_CLASSES, cfg.INPUT.SIZE) == (8, 224)
    vit = cfg.MODEL.VIT
    assert (vit.PATCH_SIZE, vit.EMBED_DIM, vit.NUM_HEADS) == (14, 384, 6)
    assert vit.PRETRAIN_GRID == [16, 16]
    assert f"output/photographs/{name}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize("name", LEARNS)
def test_only_what_the_recipe_names_learns(name, small, tmp_path):
    """One step of training by each yaml: that much moves, and nothing else."""
    path = str(CONFIGS / f"{name}.yaml")
    dense = build_classifier(load_config(str(CONFIGS / "dense.yaml"), small()))
    torch.save({"model": dense.state_dict()}, tmp_path / "dense.pth")
    cfg = load_config(path, small(MODEL__WEIGHTS=tmp_path / "dense.pth"))
    trainer = Trainer(cfg, Processes(), torch.device("cpu"))
    before = {key: value.clone() for key, value in trainer.net.named_parameters()}
    images, labels, _ = next(iter(trainer.loader))
    trainer.step(images, labels, number=0, time=0, times=trainer.times)
    learns = LEARNS[name]
    for key, value in trainer.net.named_parameters():
        # No gradient was even computed for what stands still.
        assert (value.grad is not None) == value.requires_grad == key.startswith(learns), key
        assert value.requires_grad or value.equal(before[key]), key
    moved = [key for key, value in trainer.net.named_parameters() if not value.equal(before[key])]
    assert all(any(key.startswith(part) for key in moved) for part in learns)


def test_every_arm_has_its_line_above():
    assert sorted(OWN) == sorted(path.stem for path in (CONFIGS / "compare").glob("*.yaml"))


def test_fixed_counts_cost_about_what_svits_targets_cost():
    """3.886 giga multiply-adds; the other arms are steered there by their losses."""
    images, spent = torch.randn(1, 3, 224, 224), {}
    for name in ("svit", "random", "evit", "evo_vit", "dynamic_vit"):
        options = ["MODEL.TOKEN_POLICY.SVIT.MODE", "quota"] if name == "svit" else []
        model = build_classifier(load_config(str(CONFIGS / f"compare/{name}.yaml"), options)).eval()
        with torch.no_grad():
            spent[name] = image_macs(model, model(images)[1])[0].item() / 1e9
    assert spent["svit"] == pytest.approx(3.886, rel=0.001)
    assert spent == pytest.approx(dict.fromkeys(spent, spent["svit"]), rel=0.025)


def test_the_whole_trunk_may_stand_still_and_the_head_learn(small, a_yaml):
    cfg = load_config(a_yaml, small(SOLVER__FROZEN="['trunk']"))
    trainer = Trainer(cfg, Processes(), torch.device("cpu"))
    images, labels, _ = next(iter(trainer.loader))
    trainer.step(images, labels, number=0, time=0, times=trainer.times)
    with_gradient = {key for key, value in trainer.net.named_parameters() if value.grad is not None}
    assert with_gradient == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
