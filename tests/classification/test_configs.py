"""Every yaml of configs/imagenet: its recipe as the sources have it, and one step of training."""

from functools import reduce
from pathlib import Path

import pytest
import torch

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.processes import Processes
from svit_det.classification.recipe import learning_rate
from svit_det.classification.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "imagenet"

# Sources: the supplementary, part A and table 2, and each method's own code or paper, as the yaml
# says. Columns: policy, channels, epochs, images a step, the rate that results for the trunk,
# least rate, warm-up epochs, weight decay, stochastic depth, decay of the averaged weights,
# half precision, weight of the teacher's logits, begins from a trained DeiT, what the head reads.
CLS, TWO, EMA = "class_token", "two_heads", 0.99996
RECIPES = {
    "deit_s": ("Dense", 384, 300, 1024, 1e-3, 1e-5, 5, 0.05, 0.1, EMA, True, 0.0, False, CLS),
    "deit_t": ("Dense", 192, 300, 1024, 1e-3, 1e-5, 5, 0.05, 0.1, EMA, True, 0.0, False, CLS),
    "svit_s": ("SViT", 384, 30, 1024, 2e-5, 1e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
    "svit_t": ("SViT", 192, 30, 1024, 2e-5, 1e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
    "evit_s": ("EViT", 384, 30, 2048, 8e-5, 2e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
    "ats_s": ("ATS", 384, 30, 2048, 8e-5, 2e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
    "evo_vit_s": ("EvoViT", 384, 300, 1024, 1e-3, 1e-5, 5, 0.05, 0.1, EMA, True, 0.0, False, TWO),
    "evo_vit_t": ("EvoViT", 192, 300, 2048, 2e-3, 1e-5, 5, 0.05, 0.0, EMA, True, 0.0, False, TWO),
    "evo_vit_s_30ep": (
        "EvoViT", 384, 30, 1024, 2e-5, 1e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
    "dynamic_vit_s": (
        "DynamicViT", 384, 30, 1024, 1e-5, 1e-8, 5, 0.05, 0.0, 0.9999, True, 0.5, True, CLS),
    "spvit_s": ("SPViT", 384, 60, 1024, 1e-5, 1e-7, 5, 0.05, 0.1, EMA, False, 0.5, True, CLS),
    "a_vit_s": ("AViT", 384, 100, 384, 2.25e-4, 1e-5, 5, 0.05, 0.1, EMA, True, 0.0, True, CLS),
    "a_vit_t": ("AViT", 192, 100, 512, 5e-4, 1e-5, 5, 0.05, 0.1, EMA, True, 0.0, True, CLS),
    "adavit_s": ("AdaViT", 384, 150, 512, 5e-4, 1e-5, 10, 0.05, 0.1, EMA, True, 0.0, True, CLS),
    "ia_red2_s": ("IARED2", 384, 90, 1024, 2e-5, 1e-6, 0, 1e-6, 0.0, EMA, True, 0.0, True, CLS),
}  # fmt: skip
POLICY = {
    "svit_s": {"LOSS_WEIGHT": 4.0, "SVIT.GATE_CLASS_TOKEN": True},
    "svit_t": {"LOSS_WEIGHT": 4.0, "SVIT.GATE_CLASS_TOKEN": True},
    "evit_s": {"EVIT.FUSE": True, "EVIT.WARMUP_START": 0, "EVIT.WARMUP_STEPS": 0},
    "ats_s": {"KEEP_RATIOS": [1.0] * 9},
    "evo_vit_s": {"EVO_VIT.LAYER_WISE_STEPS": 200 * 1251, "EVO_VIT.SCORE_UPDATE_BEFORE": 1.0},
    "evo_vit_s_30ep": {"EVO_VIT.STAGE_WISE": True, "EVO_VIT.LAYER_WISE_STEPS": 0},
    "dynamic_vit_s": {
        "DYNAMIC_VIT.RATIO_WEIGHT": 2.0,
        "DYNAMIC_VIT.RATIO_PER_IMAGE": True,
        "DYNAMIC_VIT.DISTILL_WEIGHT": 0.5,
        "DYNAMIC_VIT.PREDICTOR_RATE": 100.0,
        "DYNAMIC_VIT.FROZEN_STEPS": 5 * 1251,
    },
    "spvit_s": {
        "KEEP_RATIOS": [0.617, 0.369, 0.137],
        "SPVIT.RATIO_WEIGHT": 2.0,
        "SPVIT.RATIO_PER_IMAGE": False,
        "SPVIT.DISTILL_WEIGHT": 0.5,
        "SPVIT.PREDICTOR_RATE": 100.0,
        "SPVIT.FROZEN_STEPS": 5 * 1251,
        "SPVIT.SHARED_HEADS": True,
        "SPVIT.PACKAGE_NORM": False,
    },
    "a_vit_s": {"A_VIT.GAMMA": 10.0, "A_VIT.BETA": 75.0, "A_VIT.PONDER_WEIGHT": 5e-4},
    "a_vit_t": {"A_VIT.GAMMA": 10.0, "A_VIT.BETA": 30.0, "A_VIT.PRIOR_WEIGHT": 1e-3},
    "adavit_s": {
        "ADAVIT.TOKEN_TARGET": 0.5,
        "ADAVIT.HEAD_TARGET": 0.5,
        "ADAVIT.LAYER_TARGET": 0.5,
        "ADAVIT.USAGE_WEIGHT": 2.0,
        "ADAVIT.TOKEN_THRESHOLD": 0.6,
    },
    "ia_red2_s": {"IA_RED2.METHOD": "reinforce", "IA_RED2.MODE": "released"},
}
# DeiT's, for every one of them.
AUGMENTATION = {
    "SIZE": 224,
    "CROP_SHARE": 0.875,
    "INTERPOLATION": "bicubic",
    "RAND_AUGMENT": "rand-m9-mstd0.5-inc1",
    "COLOR_JITTER": 0.4,
    "ERASE": 0.25,
    "REPEATS": 3,
    "MIXUP": 0.8,
    "CUTMIX": 1.0,
    "MIX_SWITCH": 0.5,
    "LABEL_SMOOTHING": 0.1,
    "MEAN": [0.485, 0.456, 0.406],
    "STD": [0.229, 0.224, 0.225],
}
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def test_the_table_has_every_yaml():
    assert sorted(RECIPES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_is_the_recipe_of_its_source(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    solver, model = cfg.SOLVER, cfg.MODEL
    assert (
        model.TOKEN_POLICY.NAME,
        model.VIT.EMBED_DIM,
        solver.EPOCHS,
        solver.BATCH_SIZE,
        pytest.approx(learning_rate(solver)),
        solver.MIN_LR,
        solver.WARMUP_EPOCHS,
        solver.WEIGHT_DECAY,
        model.VIT.DROP_PATH_RATE,
        solver.EMA_DECAY,
        solver.AMP,
        solver.LOGIT_DISTILL_WEIGHT,
        bool(model.WEIGHTS),
        model.READS,
    ) == RECIPES[name]
    assert {key: cfg.INPUT[key] for key in AUGMENTATION} == AUGMENTATION
    for key, value in POLICY.get(name, {}).items():
        assert reduce(getattr, key.split("."), model.TOKEN_POLICY) == value, key
    assert model.NUM_CLASSES == 1000 and model.VIT.DEPTH == 12
    assert (model.VIT.EMBED_DIM, model.VIT.NUM_HEADS) in ((192, 3), (384, 6))
    assert solver.CLIP_NORM == 0 and not solver.LR_BY_STEP and not solver.TEACHER
    assert f"output/imagenet/{name}" == cfg.OUTPUT_DIR
    frozen = ["trunk.cls_token", "trunk.pos_embed"] if name == "dynamic_vit_s" else []
    assert frozen == solver.FROZEN


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_by_each_yaml(name, small, tmp_path):
    """Its own recipe in a small trunk; every part that is not frozen moves, and stays finite."""
    path = str(CONFIGS / f"{name}.yaml")
    options = small()
    dense = build_classifier(load_config(str(CONFIGS / "deit_s.yaml"), options))
    torch.save({"model": dense.state_dict()}, tmp_path / "dense.pth")
    weights = str(tmp_path / "dense.pth") if load_config(path).MODEL.WEIGHTS else ""
    cfg = load_config(path, [*options, "SOLVER.EPOCHS", "30", "MODEL.WEIGHTS", weights])
    trainer = Trainer(cfg, Processes(), torch.device("cpu"))
    before = {key: value.clone() for key, value in trainer.net.named_parameters()}
    images, labels, _ = next(iter(trainer.loader))
    time = trainer.times // 2  # past the frozen epochs and the first group's agent
    trainer.schedule.step(cfg.SOLVER.EPOCHS // 2)
    losses, _, _ = trainer.step(images, labels, number=0, time=time, times=trainer.times)
    assert "loss_class" in losses and all(loss.isfinite() for loss in losses.values())
    assert ("loss_logits" in losses) == (cfg.SOLVER.LOGIT_DISTILL_WEIGHT > 0)
    assert ("loss_distillation" in losses) == (name in ("dynamic_vit_s", "spvit_s"))
    moved = {key for key, value in trainer.net.named_parameters() if not value.equal(before[key])}
    assert all(value.isfinite().all() for value in trainer.net.parameters())
    assert moved, "nothing learns"
    assert moved.isdisjoint({*cfg.SOLVER.FROZEN})
