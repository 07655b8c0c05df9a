"""TokenTrainer: detectron2's DefaultTrainer with our loaders, optimiser and evaluators."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.utils.file_io import PathManager
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.description import describe_run
from svit_det.detection.solver import build_optimizer
from svit_det.detection.token_losses import TokenLosses
from svit_det.detection.token_usage import TokenUsageEvaluator
from svit_det.errors import InputError
from svit_det.training.distillation import dense_teacher
from svit_det.training.freezing import Freezing
from svit_det.training.groups import name_of, named_from
from svit_det.vit import TokenNet, find_token_net
from svit_det.weights.files import read_checkpoint


class TokenTrainer(DefaultTrainer):
    """Trains and evaluates a token-pruned detector; also in several processes on CPUs (gloo)."""

    def __init__(self, cfg: CfgNode) -> None:
        # Not DefaultTrainer's: it gives DDP a device id, which a model on CPU must not have.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        check_losses(model)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        parallel = _in_parallel(model)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(parallel, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer: DetectionCheckpointer = TokenCheckpointer(
            parallel,
            cfg.OUTPUT_DIR,
            describe=partial(describe_run, cfg),
            fresh_classes=True,
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())
        net = find_token_net(model)
        name, policy, steps = name_of(net, model), net.trunk.policy, cfg.SOLVER.MAX_ITER

        def frozen(step: int) -> Collection[str]:
            return named_from(name, dict.fromkeys(policy.frozen(step, steps)))

        # The inner trainer's hook, because only there gradients exist and are not yet used.
        self._trainer.register_hooks([FreezeHook(Freezing(model, frozen), weakref.proxy(self))])

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer's; a policy that learns from a teacher gets the one of MODEL.WEIGHTS.

        Also after a resume: the teacher is the model that the training began from.
        """
        super().resume_or_load(resume=resume)
        model = self.checkpointer.model
        net = find_token_net(model)
        if net.trunk.policy.needs_teacher:
            model.set_teacher(load_teacher(net, name_of(net, model), self.cfg.MODEL.WEIGHTS))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The recipe's AdamW groups."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """detectron2's loader with a mapper that survives unreadable images."""
        return build_detection_train_loader(cfg, mapper=TokenDatasetMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """detectron2's loader, batch 1, with the same reading of images."""
        return build_detection_test_loader(cfg, dataset_name, mapper=TokenDatasetMapper(cfg, False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """COCO AP, and the token usage where `TEST.TOKEN_USAGE` says so.

        Their files go to OUTPUT_DIR, or to a folder for each set where there are several.
        """
        folder = Path(cfg.OUTPUT_DIR)
        if len(cfg.DATASETS.TEST) > 1:
            folder = folder / dataset_name
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        evaluators: list[DatasetEvaluator] = [
            ZeroWithoutPredictions(dataset_name, tasks=tasks, output_dir=str(folder))
        ]
        if cfg.TEST.TOKEN_USAGE:
            evaluators.append(
                TokenUsageEvaluator(
                    dataset_name,
                    patch_size=cfg.MODEL.VIT.PATCH_SIZE,
                    output_dir=str(folder),
                )
            )
        return DatasetEvaluators(evaluators)


def check_losses(model: nn.Module) -> None:
    """Refuse a meta-architecture that would train without what the policy adds, before any data."""
    policy = find_token_net(model).trunk.policy
    if policy.takes_part_in_training and not isinstance(model, TokenLosses):
        raise InputError(
            f"MODEL.META_ARCHITECTURE: {type(model).__name__} would train "
            f"{type(policy).__name__} without its losses, statistics or clock; choose TokenRCNN or "
            "TokenRetinaNet."
        )


class FreezeHook(HookBase):
    """Lets frozen parts stand still."""

    def __init__(self, freezing: Freezing, outer: TrainerBase) -> None:
        self._freezing = freezing
        self._outer = outer

    def after_backward(self) -> None:
        """Before the optimiser's step."""
        self._freezing.clear_gradients(self._outer.iter)


def load_teacher(net: TokenNet, name: str, weights: str) -> TokenNet:
    """A dense teacher of the architecture of `net`, called `name` in the file `weights`."""
    if not weights:
        raise InputError(
            f"MODEL.WEIGHTS is empty; {type(net.trunk.policy).__name__} learns from a teacher: "
            "name the weights of the dense model that the training begins from."
        )
    path = PathManager.get_local_path(weights)
    if not Path(path).is_file():
        raise InputError(f"MODEL.WEIGHTS {weights}: no such file.")
    teacher = dense_teacher(net)
    given = read_checkpoint(path)["model"]
    inside = {
        key.removeprefix(f"{name}."): value
        for key, value in given.items()
        if key.startswith(f"{name}.") and ".policy." not in key
    }
    if "trunk.cls_token" not in inside:
        teacher.trunk.register_parameter("cls_token", None)  # the dense model had none
    try:
        teacher.load_state_dict(inside)
    except RuntimeError as error:
        raise InputError(
            f"MODEL.WEIGHTS {weights}: not a whole dense model to learn from ({error})."
        ) from error
    return teacher


class ZeroWithoutPredictions(COCOEvaluator):
    """COCOEvaluator that calls the AP of a model that finds nothing 0, not nan."""

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> dict:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results if coco_eval is not None else dict.fromkeys(results, 0.0)


def _in_parallel(model: nn.Module) -> nn.Module:
    """The model under DDP where several processes train."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    # All processes track the same statistics, so buffers need not be sent around at every step.
    # Newer torch has another word for it and warns about the old one.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        model, device_ids=[comm.get_local_rank()] if on_gpu else None, **{word: False}
    )
