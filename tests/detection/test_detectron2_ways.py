"""detectron2's own ways: they work, or refuse in a sentence. Nothing of ours is lost silently."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.export import TracingAdapter
from detectron2.utils.events import EventStorage
from safetensors.torch import save_file

from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.datasets import register_datasets
from svit_det.detection.solver import build_optimizer
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.vit import find_token_net
from svit_det.weights.files import read_checkpoint, write_weights

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------ DefaultTrainer


@pytest.fixture
def cfg(tiny_config, tmp_path):
    cfg = tiny_config("OUTPUT_DIR", tmp_path / "run", "SOLVER.AMP.ENABLED", False)
    register_datasets(cfg)
    return cfg


class WithOurOptimizer(DefaultTrainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)


class WithOurs(WithOurOptimizer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=TokenDatasetMapper(cfg, True))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return TokenTrainer.build_evaluator(cfg, dataset_name)


@pytest.mark.parametrize("architecture", ["TokenRCNN", "GeneralizedRCNN"])
def test_the_stock_trainer_says_what_it_would_lose(cfg, architecture):
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.INPUT.DETR_CROP.ENABLED = True
    with pytest.raises(InputError) as refused:
        DefaultTrainer(cfg)
    said = str(refused.value)
    for part in ("SOLVER.OPTIMIZER ADAMW", "INPUT.DETR_CROP", "our reader", "TokenTrainer"):
        assert part in said


def test_a_subclass_that_brings_one_thing_hears_of_the_other(cfg):
    with pytest.raises(InputError, match=r"WithOurOptimizer .* without our reader of images"):
        WithOurOptimizer(cfg)
    cfg.SOLVER.OPTIMIZER = "SGD"
    with pytest.raises(InputError, match="without our reader of images: use"):
        DefaultTrainer(cfg)


def test_a_subclass_that_brings_both_trains(cfg):
    trainer = WithOurs(cfg)
    groups = trainer.optimizer.param_groups if hasattr(trainer, "optimizer") else None
    groups = groups or trainer._trainer.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, cfg.SOLVER.WEIGHT_DECAY}
    trainer.train()
    assert int(find_token_net(trainer.model).trunk.policy.budget.num_batches_tracked) == 3


def test_a_model_without_a_trainer_is_built(tiny_model):
    assert DefaultTrainer.build_model is not None and tiny_model() is not None


# ------------------------------------------------------------------ the examples


def test_a_loop_of_ones_own(cfg, tiny_model, tmp_path):
    start = tmp_path / "start.pth"
    write_weights(tiny_model().state_dict(), start)
    cfg.MODEL.WEIGHTS = str(start)
    history = example("own_loop").train(cfg)
    assert len(history) == 3 and all("loss_keep_ratio" in losses for losses in history)
    saved = read_checkpoint(str(tmp_path / "run/model_final.pth"))
    assert saved["svit_det"]["policy"] == "SViT"
    tracked = [n for n in saved["model"] if n.endswith("budget.num_batches_tracked")]
    assert saved["model"][tracked[0]] == 3


def test_the_loop_follows_the_schedule(cfg, tiny_model, tmp_path, monkeypatch):
    cfg.merge_from_list(["SOLVER.MAX_ITER", 3, "SOLVER.STEPS", (2,), "SOLVER.WARMUP_ITERS", 0])
    loop, built = example("own_loop"), []

    def keeping(cfg, model):
        built.append(build_optimizer(cfg, model))
        return built[0]

    monkeypatch.setattr(loop, "build_optimizer", keeping)
    start = tmp_path / "start.pth"
    write_weights(tiny_model().state_dict(), start)
    cfg.MODEL.WEIGHTS = str(start)
    loop.train(cfg)
    rates = [group["lr"] for group in built[0].param_groups]
    assert rates == pytest.approx([cfg.SOLVER.BASE_LR * cfg.SOLVER.GAMMA] * len(rates))


def test_a_script_like_detectron2s_demo(tiny_yaml, tiny_model, discs, tmp_path):
    weights, result = tmp_path / "w.safetensors", tmp_path / "drawn.png"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, weights)
    # detectron2's own checkpointer reads no .safetensors.
    torch.save({"model": tiny_model().state_dict()}, tmp_path / "w.pth")
    found = example("detectron2_demo").draw(
        *(str(tiny_yaml), str(tmp_path / "w.pth"), str(discs / "images/val_1.png"), str(result))
    )
    assert len(found) == 5 and result.is_file()


@pytest.fixture
def lazy():
    """The example at toy size."""
    cfg = LazyConfig.load(str(EXAMPLES / "lazy_config.py"))
    trunk = cfg.model.backbone.net.net.trunk
    for place in (trunk, trunk.policy.shape):
        place.embed_dim, place.depth = 48, 4
    trunk.policy.config.layers, trunk.policy.config.keep_ratios = (1, 3), (0.7, 0.5)
    return cfg


def test_a_lazy_config_builds_a_model_that_trains(lazy, training_input):
    model = instantiate(lazy.model).train()
    lazy.optimizer.model = model
    optimizer = instantiate(lazy.optimizer)
    assert len(optimizer.param_groups) == 2
    before = [p.detach().clone() for p in find_token_net(model).trunk.policy.parameters()]
    with EventStorage():
        losses = model([training_input(96, 128, 2)])
    assert {"loss_keep_ratio", "loss_mask"} <= set(losses)
    sum(losses.values()).backward()
    optimizer.step()
    after = find_token_net(model).trunk.policy.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_lazy_config_predicts(lazy, training_input):
    model = instantiate(lazy.model).eval()
    with torch.no_grad():
        (found,) = model([{"image": training_input(96, 128, 0)["image"]}])
    assert found["token_usage"].shape == (4, 6, 8)


def test_the_lazy_config_is_the_yamls_model():
    from svit_det.detection import load_config

    yaml = load_config("plain_svit_t")
    lazy = LazyConfig.load(str(EXAMPLES / "lazy_config.py"))
    shape = lazy.model.backbone.net.net.trunk
    assert (shape.embed_dim, shape.depth, shape.num_heads) == (
        *(yaml.MODEL.VIT.EMBED_DIM, yaml.MODEL.VIT.DEPTH, yaml.MODEL.VIT.NUM_HEADS),
    )
    assert lazy.model.roi_heads.num_classes == yaml.MODEL.ROI_HEADS.NUM_CLASSES


# ------------------------------------------------------------------ torch.jit.trace


RETINANET = (
    *("MODEL.META_ARCHITECTURE", "TokenRetinaNet"),
    *("MODEL.RETINANET.IN_FEATURES", "['p2', 'p3', 'p4']"),
)


@pytest.mark.parametrize(
    "options",
    [(), ("MODEL.TOKEN_POLICY.NAME", "EViT"), RETINANET],
    ids=["SViT", "EViT", "RetinaNet"],
)
@pytest.mark.parametrize("flattened", [False, True], ids=["the model", "detectron2's adapter"])
def test_a_whole_detector_is_not_traced(tiny_model, training_input, options, flattened):
    """Neither as it is nor inside the module by which detectron2 traces its own models."""
    model = tiny_model(*options).eval()
    given = [{"image": training_input(64, 96, 0)["image"]}]
    if flattened:
        adapter = TracingAdapter(model, given)
        model, inputs = adapter, adapter.flattened_inputs
    else:
        inputs = (given,)
    with pytest.raises(InputError, match=r"torch\.jit\.trace would keep .* svit-det export "):
        torch.jit.trace(model, inputs)
