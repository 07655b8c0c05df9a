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
from svit_det.config.yaml_file import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "imagenet"

# Sources: the supplementary, part A and table 2, and each method's own code or paper, as the yaml
# says. What a row does not say is as in DEIT: DeiT's recipe, which every method begins from.
DEIT = {
    "MODEL.VIT.DROP_PATH_RATE": 0.1,
    "SOLVER.EPOCHS": 300,
    "SOLVER.BATCH_SIZE": 1024,
    "SOLVER.BASE_LR": 5e-4,
    "SOLVER.RATE_BATCH": 512,
    "SOLVER.MIN_LR": 1e-5,
    "SOLVER.WARMUP_EPOCHS": 5,
    "SOLVER.WARMUP_LR": 1e-6,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.EMA_DECAY": 0.99996,
    "SOLVER.AMP": True,
    "SOLVER.LOGIT_DISTILL_WEIGHT": 0.0,
    "SOLVER.POLICY_STEPS_PER_EPOCH": 0,
    "SOLVER.FROZEN": [],
    "MODEL.READS": "class_token",
    "MODEL.WEIGHTS": "",
}
TINY = {"MODEL.VIT.EMBED_DIM": 192, "MODEL.VIT.NUM_HEADS": 3}
SMALL = {"MODEL.VIT.EMBED_DIM": 384, "MODEL.VIT.NUM_HEADS": 6}
FROM_TINY = TINY | {"MODEL.WEIGHTS": "weights/deit_tiny_classifier.pth"}
FROM_SMALL = SMALL | {"MODEL.WEIGHTS": "weights/deit_small_classifier.pth"}
# Fine-tunings in eval mode, nearly without decay and without a warm-up; the rates are SViT's.
FINETUNE = {
    "MODEL.VIT.DROP_PATH_RATE": 0.0,
    "SOLVER.EPOCHS": 30,
    "SOLVER.BASE_LR": 1e-5,
    "SOLVER.MIN_LR": 1e-6,
    "SOLVER.WARMUP_EPOCHS": 0,
    "SOLVER.WEIGHT_DECAY": 1e-6,
}
EVIT = FINETUNE | {"SOLVER.BATCH_SIZE": 2048, "SOLVER.BASE_LR": 2e-5, "SOLVER.MIN_LR": 2e-6}
# The trunk learns at a hundredth of the predictors' rate, from the warm-up's 1e-6 on.
PREDICTORS = {
    "SOLVER.WARMUP_LR": 1e-8,
    "SOLVER.LOGIT_DISTILL_WEIGHT": 0.5,
    "SOLVER.POLICY_STEPS_PER_EPOCH": 1251,
}
SCRATCH = {"MODEL.READS": "two_heads", "SOLVER.POLICY_STEPS_PER_EPOCH": 1251}
RECIPES = {
    "deit_s": SMALL,
    "deit_t": TINY,
    "svit_s": FROM_SMALL | FINETUNE,
    "svit_t": FROM_TINY | FINETUNE,
    "evit_s": FROM_SMALL | EVIT,
    "ats_s": FROM_SMALL | EVIT,
    "evo_vit_s": SMALL | SCRATCH,
    "evo_vit_t": TINY | SCRATCH | {"SOLVER.BATCH_SIZE": 2048, "MODEL.VIT.DROP_PATH_RATE": 0.0},
    "evo_vit_s_30ep": FROM_SMALL | FINETUNE,
    "dynamic_vit_s": FROM_SMALL
    | PREDICTORS
    | {
        "MODEL.VIT.DROP_PATH_RATE": 0.0,
        "SOLVER.EPOCHS": 30,
        "SOLVER.BASE_LR": 1e-5,
        "SOLVER.RATE_BATCH": 0,
        "SOLVER.MIN_LR": 1e-8,
        "SOLVER.EMA_DECAY": 0.9999,
        "SOLVER.FROZEN": ["trunk.cls_token", "trunk.pos_embed"],
    },
    "spvit_s": FROM_SMALL
    | PREDICTORS
    | {
        "SOLVER.EPOCHS": 60,
        "SOLVER.BASE_LR": 5e-6,
        "SOLVER.MIN_LR": 1e-7,
        "SOLVER.AMP": False,
    },
    "a_vit_s": FROM_SMALL
    | {"SOLVER.EPOCHS": 100, "SOLVER.BATCH_SIZE": 384, "SOLVER.BASE_LR": 3e-4},
    "a_vit_t": FROM_TINY | {"SOLVER.EPOCHS": 100, "SOLVER.BATCH_SIZE": 512},
    "adavit_s": FROM_SMALL
    | {"SOLVER.EPOCHS": 150, "SOLVER.BATCH_SIZE": 512, "SOLVER.WARMUP_EPOCHS": 10},
    "ia_red2_s": FROM_SMALL | FINETUNE | {"SOLVER.EPOCHS": 90},
}
# The rate that results for the trunk: the base rate times the batch over 512.
RATES = {
    **{"deit_s": 1e-3, "deit_t": 1e-3, "svit_s": 2e-5, "svit_t": 2e-5, "evit_s": 8e-5},
    **{"ats_s": 8e-5, "evo_vit_s": 1e-3, "evo_vit_t": 2e-3, "evo_vit_s_30ep": 2e-5},
    **{"dynamic_vit_s": 1e-5, "spvit_s": 1e-5, "a_vit_s": 2.25e-4, "a_vit_t": 5e-4},
    **{"adavit_s": 5e-4, "ia_red2_s": 2e-5},
}
SVIT = {
    "NAME": "SViT",
    "LOSS_WEIGHT": 4.0,
    "SVIT.GATE_CLASS_TOKEN": True,
    "SVIT.RATIO_PER_IMAGE": False,
}
EVO_VIT = {
    "NAME": "EvoViT",
    "EVO_VIT.STAGE_WISE": True,
    "EVO_VIT.LAYER_WISE_STEPS": 200 * 1251,
    "EVO_VIT.SCORE_UPDATE_BEFORE": 1.0,
    "EVO_VIT.SCORE_UPDATE": 0.5,
}
A_VIT = {"NAME": "AViT", "A_VIT.GAMMA": 10.0, "A_VIT.PONDER_WEIGHT": 5e-4}
A_VIT |= {"A_VIT.PRIOR_WEIGHT": 1e-3}
POLICY = {
    "deit_s": {"NAME": "Dense"},
    "deit_t": {"NAME": "Dense"},
    "svit_s": SVIT,
    "svit_t": SVIT,
    "evit_s": {
        "NAME": "EViT",
        "EVIT.FUSE": True,
        "EVIT.WARMUP_START": 0,
        "EVIT.WARMUP_STEPS": 0,
    },
    "ats_s": {"NAME": "ATS", "KEEP_RATIOS": [1.0] * 9},
    "evo_vit_s": EVO_VIT,
    "evo_vit_t": EVO_VIT,
    "evo_vit_s_30ep": EVO_VIT | {"EVO_VIT.LAYER_WISE_STEPS": 0},
    "dynamic_vit_s": {
        "NAME": "DynamicViT",
        "DYNAMIC_VIT.RATIO_WEIGHT": 2.0,
        "DYNAMIC_VIT.RATIO_PER_IMAGE": True,
        "DYNAMIC_VIT.DISTILL_WEIGHT": 0.5,
        "DYNAMIC_VIT.PREDICTOR_RATE": 100.0,
        "DYNAMIC_VIT.FROZEN_STEPS": 5 * 1251,
    },
    "spvit_s": {
        "NAME": "SPViT",
        "KEEP_RATIOS": [0.617, 0.369, 0.137],
        "SPVIT.RATIO_WEIGHT": 2.0,
        "SPVIT.RATIO_PER_IMAGE": False,
        "SPVIT.DISTILL_WEIGHT": 0.5,
        "SPVIT.PREDICTOR_RATE": 100.0,
        "SPVIT.FROZEN_STEPS": 5 * 1251,
        "SPVIT.SHARED_HEADS": True,
        "SPVIT.PACKAGE_NORM": False,
    },
    "a_vit_s": A_VIT | {"A_VIT.BETA": 75.0},
    "a_vit_t": A_VIT | {"A_VIT.BETA": 30.0},
    "adavit_s": {
        "NAME": "AdaViT",
        "ADAVIT.TOKEN_TARGET": 0.5,
        "ADAVIT.HEAD_TARGET": 0.5,
        "ADAVIT.LAYER_TARGET": 0.5,
        "ADAVIT.USAGE_WEIGHT": 2.0,
        "ADAVIT.TOKEN_THRESHOLD": 0.6,
    },
    "ia_red2_s": {"NAME": "IARED2", "IA_RED2.METHOD": "reinforce", "IA_RED2.MODE": "released"},
}
# Which blocks decide, and the share of all patch tokens that each keeps, whether the yaml says them
# or the policy's own default does. A row without an entry has no schedule.
SVIT_BLOCKS = {3: 0.7, 4: 0.7, 5: 0.7, 6: 0.49, 7: 0.49, 8: 0.49, 9: 0.343, 10: 0.343, 11: 0.343}
THREE_STAGES = {3: 0.7, 6: 0.49, 9: 0.343}
EVO_VIT_BLOCKS = {4: 0.5, 5: 0.5, 6: 0.5, 7: 0.5, 8: 0.5, 9: 0.5, 10: 0.5, 11: 0.5}
SCHEDULES = {
    "svit_s": SVIT_BLOCKS,
    "svit_t": SVIT_BLOCKS,
    "evit_s": THREE_STAGES,
    "dynamic_vit_s": THREE_STAGES,
    "spvit_s": {3: 0.617, 6: 0.369, 9: 0.137},
    "ats_s": {3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0, 8: 1.0, 9: 1.0, 10: 1.0, 11: 1.0},
    "evo_vit_s": EVO_VIT_BLOCKS,
    "evo_vit_t": EVO_VIT_BLOCKS,
    "evo_vit_s_30ep": EVO_VIT_BLOCKS,
    "adavit_s": dict.fromkeys(range(12), 0.5),
    "ia_red2_s": {0: 0.81, 4: 0.656, 8: 0.531},
}
# What stands still in the middle of a training, and the only part that learns at its beginning.
STILL = {
    "dynamic_vit_s": ("trunk.cls_token", "trunk.pos_embed"),
    "ia_red2_s": ("trunk.policy.agents",),
}
FIRST = {
    "dynamic_vit_s": "trunk.policy.predictors",
    "spvit_s": "trunk.policy.selectors",
    "ia_red2_s": "trunk.policy.agents.0",
}
# DeiT's, for every one of them.
AUGMENTATION = {
    "SIZE": 224,
    "CROP_SHARE": 0.875,
    "INTERPOLATION": "bicubic",
    "SCALE": [0.08, 1.0],
    "RATIO": [3 / 4, 4 / 3],
    "FLIP": 0.5,
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


def test_the_tables_have_every_yaml():
    assert sorted(RECIPES) == sorted(RATES) == sorted(POLICY) == NAMES


def wanted(name):
    """Every value of a yaml, by its full key, as it is typed out above."""
    policy = {f"MODEL.TOKEN_POLICY.{key}": value for key, value in POLICY[name].items()}
    return DEIT | RECIPES[name] | policy | {"OUTPUT_DIR": f"output/imagenet/{name}"}


def values_of(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from values_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_is_the_recipe_of_its_source(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    found = {key: reduce(getattr, key.split("."), cfg) for key in wanted(name)}
    assert found == wanted(name)
    assert learning_rate(cfg.SOLVER) == pytest.approx(RATES[name])
    augmentation = {key: cfg.INPUT[key] for key in AUGMENTATION}
    assert augmentation.pop("RATIO") == pytest.approx(AUGMENTATION["RATIO"])
    assert augmentation == {k: v for k, v in AUGMENTATION.items() if k != "RATIO"}
    assert set(AUGMENTATION) == set(cfg.INPUT)
    assert cfg.MODEL.NUM_CLASSES == 1000 and cfg.MODEL.VIT.DEPTH == 12
    assert cfg.SOLVER.CLIP_NORM == 0 and not cfg.SOLVER.LR_BY_STEP and not cfg.SOLVER.TEACHER


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_yaml_is_read_back(name):
    """No yaml and no base sets a key that is not typed out above."""
    given = dict(values_of(read_yaml(str(CONFIGS / f"{name}.yaml"))))
    assert given == {key: wanted(name)[key] for key in given if key in wanted(name)}


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_has_the_schedule_of_its_source(name, small):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), small())
    schedule = build_classifier(cfg).trunk.policy.schedule
    found = {} if schedule is None else dict(zip(schedule.layers, schedule.shares, strict=True))
    assert found == SCHEDULES.get(name, {})


def a_step(name, small, tmp_path, *, share):
    """A step of the yaml's own recipe in a small trunk, after this share of the policy's clock.

    The trainer, the losses, and the names of the parameters that moved.
    """
    path = str(CONFIGS / f"{name}.yaml")
    options = small()
    dense = build_classifier(load_config(str(CONFIGS / "deit_s.yaml"), options))
    torch.save({"model": dense.state_dict()}, tmp_path / "dense.pth")
    weights = str(tmp_path / "dense.pth") if load_config(path).MODEL.WEIGHTS else ""
    cfg = load_config(path, [*options, "SOLVER.EPOCHS", "30", "MODEL.WEIGHTS", weights])
    trainer = Trainer(cfg, Processes(), torch.device("cpu"))
    before = {key: value.clone() for key, value in trainer.net.named_parameters()}
    images, labels, _ = next(iter(trainer.loader))
    time = int(share * trainer.times)
    trainer.schedule.step(cfg.SOLVER.EPOCHS // 2)
    losses, _, _ = trainer.step(images, labels, number=0, time=time, times=trainer.times)
    moved = {key for key, value in trainer.net.named_parameters() if not value.equal(before[key])}
    return trainer, losses, moved


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_by_each_yaml(name, small, tmp_path):
    """Past the frozen epochs and the agents' turns every part moves but STILL, and stays finite.

    That biases move, which do not decay, shows that every layer has a gradient.
    """
    trainer, losses, moved = a_step(name, small, tmp_path, share=0.5)
    solver = trainer.cfg.SOLVER
    assert "loss_class" in losses and all(loss.isfinite() for loss in losses.values())
    assert ("loss_logits" in losses) == (solver.LOGIT_DISTILL_WEIGHT > 0)
    assert ("loss_distillation" in losses) == (name in ("dynamic_vit_s", "spvit_s"))
    assert all(value.isfinite().all() for value in trainer.net.parameters())
    names = {key for key, _ in trainer.net.named_parameters()}
    assert moved == {key for key in names if not key.startswith(STILL.get(name, ()))}
    assert {"head.bias", "trunk.blocks.0.norm1.bias", "norm.bias"} <= moved


@pytest.mark.parametrize("name", FIRST)
def test_the_policy_learns_before_the_trunk(name, small, tmp_path):
    trainer, _, moved = a_step(name, small, tmp_path, share=0)
    names = {key for key, _ in trainer.net.named_parameters()}
    assert moved == {key for key in names if key.startswith(f"{FIRST[name]}.")} != set()
