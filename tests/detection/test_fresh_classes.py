"""Weights for another number of classes: all but the last layers of the heads are taken."""

import logging

import pytest
import torch
from detectron2.modeling import build_model

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError

CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"
HEADS = [
    f"roi_heads.{layer}.{kind}"
    for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
    for kind in ("weight", "bias")
]
CASCADE = (
    "MODEL.ROI_HEADS.NAME",
    "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    True,
)


@pytest.fixture
def stored(tiny_model, tmp_path):
    """Factory: a file of random weights for so many classes; returns its path and the weights."""

    def make(classes, *options):
        weights = tiny_model(CLASSES, classes, *options).state_dict()
        generator = torch.Generator().manual_seed(11)
        weights = {
            name: torch.rand(value.shape, generator=generator).to(value.dtype)
            for name, value in weights.items()
        }
        torch.save({"model": weights}, tmp_path / "other.pth")
        return str(tmp_path / "other.pth"), weights

    return make


def check(model, path, weights, fresh, caplog):
    """Load `path`: what is `fresh` stays and is named in one line, the rest is `weights`."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        TokenCheckpointer(model, fresh_classes=True).load(path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (before if name in fresh else weights)[name]), name
    (line,) = [line for line in caplog.messages if "start as initialised" in line]
    assert line.endswith(f": {', '.join(fresh)} start as initialised.")
    assert not [each for each in caplog.messages if each != line]
    return line


@pytest.mark.parametrize(("given", "wanted"), [(5, 2), (1, 2), (2, 7)])
def test_fewer_and_more_classes(tiny_model, stored, caplog, given, wanted):
    path, weights = stored(given)
    line = check(tiny_model(CLASSES, wanted), path, weights, HEADS, caplog)
    said = "1 class" if given == 1 else f"{given} classes"
    assert line.startswith(f"{path} has {said}, this model {wanted}: ")


def test_every_stage_of_a_cascade(tiny_model, stored, caplog):
    path, weights = stored(5, *CASCADE)
    fresh = [
        f"roi_heads.box_predictor.{stage}.cls_score.{kind}"
        for stage in range(3)
        for kind in ("weight", "bias")
    ]
    check(tiny_model(*CASCADE), path, weights, fresh + HEADS[4:], caplog)


def test_a_one_stage_detector(tiny_config, tmp_path, caplog):
    """RetinaNet scores every class at every anchor."""
    options = (
        "MODEL.META_ARCHITECTURE",
        "TokenRetinaNet",
        "MODEL.RETINANET.IN_FEATURES",
        "['p2', 'p3', 'p4']",
    )
    models = [
        build_model(tiny_config(*options, "MODEL.RETINANET.NUM_CLASSES", classes))
        for classes in (80, 2)
    ]
    weights = models[0].state_dict()
    torch.save(weights, tmp_path / "retina.pth")
    fresh = ["head.cls_score.weight", "head.cls_score.bias"]
    line = check(models[1], str(tmp_path / "retina.pth"), weights, fresh, caplog)
    assert "has 80 classes, this model 2" in line


def test_one_step_of_training_from_it(tiny_config, stored, tmp_path):
    path, weights = stored(5)
    options = ("OUTPUT_DIR", tmp_path / "out", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 1)
    cfg = tiny_config(*options, "MODEL.WEIGHTS", path)
    prepare_datasets(cfg, training=True)
    trainer = TokenTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    trained = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    assert trained["roi_heads.box_predictor.cls_score.bias"].shape == (3,)
    name = "backbone.net.net.trunk.blocks.0.mlp.fc1.weight"
    assert 0 < (trained[name] - weights[name]).abs().max() < 0.01


# ------------------------------------------------------------------ refused


def refusal(model, path, **options):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as refused:
        TokenCheckpointer(model, **options).load(path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert path in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


def test_heads_at_random_are_not_evaluated(tiny_model, stored):
    """What is not going to be trained is refused, as a model that would find nothing."""
    path, _ = stored(5)
    said = refusal(tiny_model(), path)
    assert "has 5 classes, the model 2" in said and HEADS[0] in said and "NUM_CLASSES" in said


def test_another_width_besides_is_another_architecture(tiny_model, stored):
    path, _ = stored(5)
    said = refusal(tiny_model("MODEL.ROI_BOX_HEAD.FC_DIM", 48), path, fresh_classes=True)
    assert "another architecture" in said and "roi_heads.box_head.fc1.weight" in said
    assert HEADS[0] in said  # 32 or 48 inputs: not the classes alone


def test_half_of_a_head_is_still_refused(tiny_model, tmp_path, stored):
    _, weights = stored(5)
    del weights["roi_heads.box_predictor.bbox_pred.bias"]
    torch.save(weights, tmp_path / "half.pth")
    said = refusal(tiny_model(), str(tmp_path / "half.pth"), fresh_classes=True)
    assert "roi_heads.box_predictor.bbox_pred.bias" in said


class Optimiser:
    """What a run keeps besides the model, as detectron2's trainer has it."""

    loaded = False

    def state_dict(self):
        return {"step": 3}

    def load_state_dict(self, state):
        self.loaded = True


def test_a_run_is_not_resumed_with_other_classes(tiny_model, tmp_path):
    TokenCheckpointer(tiny_model(), str(tmp_path), trainer=Optimiser()).save("model_final")
    path, state = str(tmp_path / "model_final.pth"), Optimiser()
    checkpointer = TokenCheckpointer(
        tiny_model(CLASSES, 4), str(tmp_path), fresh_classes=True, trainer=state
    )
    with pytest.raises(InputError) as refused:
        checkpointer.resume_or_load("", resume=True)
    said = str(refused.value)
    assert said.startswith(f"{path}: has 2 classes, the model 4, and a run")
    assert "optimiser" in said and "--resume" in said and "MODEL.WEIGHTS" in said
    # As the start of a new run the file is taken.
    checkpointer.resume_or_load(path, resume=False)
    assert not state.loaded
