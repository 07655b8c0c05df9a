"""TokenTrainer: detectron2's DefaultTrainer with our loaders, optimiser and evaluators."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.description import describe_run
from svit_det.detection.expected import check_expected
from svit_det.detection.image_order import TrainImages
from svit_det.detection.loop import MixedSteps, PlainSteps, run_steps
from svit_det.detection.resume import check_resume
from svit_det.detection.run_files import MetricsWriter, WholeCOCOEvaluator, said_about_the_disk
from svit_det.detection.run_state import CatchUp, RunState
from svit_det.detection.solver import build_optimizer, build_schedule
from svit_det.detection.state_form import check_state
from svit_det.detection.token_losses import TokenLosses
from svit_det.detection.token_usage import TokenUsageEvaluator
from svit_det.errors import InputError
from svit_det.interrupts import ignore_interrupts
from svit_det.shipped import existing_weights
from svit_det.training.distillation import dense_teacher
from svit_det.training.finite import check_finite
from svit_det.training.freezing import Freezing
from svit_det.training.groups import name_of, named_from
from svit_det.vit import TokenNet, find_token_net
from svit_det.weights.files import read_checkpoint
from svit_det.weights.kinds import check_kinds
from svit_det.weights.match import architecture_mismatch, some


class TokenTrainer(DefaultTrainer):
    """Trains and evaluates a token-pruned detector; several processes work on CPUs too (gloo)."""

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's __init__ gives DDP a device id, which a model on a CPU must not have.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        check_losses(model)
        optimizer = self.build_optimizer(cfg, model)
        images = self.build_train_loader(cfg)
        parallel = _in_parallel(model)
        trainer_class = MixedSteps if cfg.SOLVER.AMP.ENABLED else PlainSteps
        self._trainer = trainer_class(parallel, images, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        scheduler = self.scheduler
        needs_teacher = find_token_net(model).trunk.policy.needs_teacher

        def check(path: str, checkpoint: Mapping[str, Any]) -> None:
            check_resume(cfg, path, checkpoint, images=images.number, needs_teacher=needs_teacher)
            check_state(path, checkpoint.get("trainer"), optimizer=optimizer, scheduler=scheduler)

        self.checkpointer: DetectionCheckpointer = TokenCheckpointer(
            parallel,
            cfg.OUTPUT_DIR,
            describe=partial(describe_run, cfg),
            fresh_classes=True,
            check_resume=check,
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

        # This is a hook of the inner trainer: only there gradients exist and are not yet used.
        self._trainer.register_hooks([FreezeHook(Freezing(model, frozen), weakref.proxy(self))])

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's hooks between `RunState`, the first one, and `CatchUp`, the last one."""
        hooks = super().build_hooks()
        metrics = getattr(self, "_metrics", None)
        images = self._trainer.data_loader
        self._run = RunState(self.cfg, seed=images.seed, images=images.number, metrics=metrics)
        return [self._run, *hooks, CatchUp()]

    def build_writers(self) -> list[EventWriter]:
        """detectron2's writers, with a metrics.json of whole lines."""
        folder = Path(self.cfg.OUTPUT_DIR)
        self._metrics = MetricsWriter(folder / "metrics.json")
        return [
            CommonMetricPrinter(self.max_iter),
            self._metrics,
            TensorboardXWriter(str(folder)),
        ]

    def train(self) -> Any:
        """Run all remaining steps and the evaluation. Raises InputError where a run must stop."""
        images = self._trainer.data_loader
        images.seed, images.first_step = self._run.seed, self.start_iter
        with said_about_the_disk(self.cfg.OUTPUT_DIR):
            run_steps(self, self.start_iter, self.max_iter)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            check_expected(self.cfg.TEST.EXPECTED_RESULTS, getattr(self, "_last_eval_results", {}))
        return getattr(self, "_last_eval_results", None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As DefaultTrainer's method. Raises InputError if the optimiser has other parameters."""
        try:
            super().load_state_dict(state_dict)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"OUTPUT_DIR {self.cfg.OUTPUT_DIR}: its optimiser's state is of other parameters "
                f"({error}); go on with the settings of that run, or begin anew."
            ) from error

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer's method. A policy that needs a teacher gets one from MODEL.WEIGHTS.

        This holds after a resume too: the teacher is the model with which the training began.
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
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """The recipe's schedule."""
        return build_schedule(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Images in an order that depends on the seed alone; unreadable images are replaced."""
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return TrainImages(
            cfg,
            TokenDatasetMapper(cfg, True),
            seed=seed,
            process=comm.get_rank(),
            processes=comm.get_world_size(),
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """detectron2's loader with batches of 1; images are read as in training."""
        mapper = TokenDatasetMapper(cfg, False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        loader.worker_init_fn = ignore_interrupts
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Evaluators of COCO's AP and, where `TEST.TOKEN_USAGE` is set, of the token usage.

        Their files go to OUTPUT_DIR; with several sets each set has a folder there.
        """
        folder = Path(cfg.OUTPUT_DIR)
        if len(cfg.DATASETS.TEST) > 1:
            folder = folder / dataset_name
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        evaluators: list[DatasetEvaluator] = [
            WholeCOCOEvaluator(dataset_name, tasks=tasks, output_dir=str(folder))
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
    """Refuse a meta-architecture that would train without the policy's losses or statistics."""
    policy = find_token_net(model).trunk.policy
    if policy.takes_part_in_training and not isinstance(model, TokenLosses):
        raise InputError(
            f"MODEL.META_ARCHITECTURE: {type(model).__name__} would train "
            f"{type(policy).__name__} without its losses, statistics or clock; choose TokenRCNN or "
            "TokenRetinaNet."
        )


class FreezeHook(HookBase):
    """Removes the gradients of frozen parts, so that these stand still."""

    def __init__(self, freezing: Freezing, outer: TrainerBase) -> None:
        self._freezing = freezing
        self._outer = outer

    def after_backward(self) -> None:
        """Called before the optimiser's step."""
        self._freezing.clear_gradients(self._outer.iter)


def load_teacher(net: TokenNet, name: str, weights: str) -> TokenNet:
    """A dense teacher with the architecture of `net`; `name` is its prefix in file `weights`.

    Raises InputError for weights that are not the whole teacher's own.
    """
    if not weights:
        raise InputError(
            f"MODEL.WEIGHTS is empty; {type(net.trunk.policy).__name__} learns from a teacher: "
            "name the weights of the dense model that the training begins from."
        )
    path = existing_weights(weights, name="MODEL.WEIGHTS")
    teacher = dense_teacher(net)
    given = {
        key: value
        for key, value in read_checkpoint(path)["model"].items()
        if key.startswith(f"{name}.") and ".policy." not in key
    }
    if f"{name}.trunk.cls_token" not in given:
        teacher.trunk.register_parameter("cls_token", None)  # the dense model had no class token
    ours = named_from(name, teacher.state_dict())
    source = f"MODEL.WEIGHTS {weights}"
    check_finite(given, source=source, model=ours)
    shapes, theirs = (
        {key: tuple(each.shape) for key, each in all.items()} for all in (ours, given)
    )
    problems = architecture_mismatch(shapes, theirs)
    missing = [key for key in ours if key not in given]
    if missing and not problems:
        problems = [f"{some(missing)} are not in the file"]
    if problems:
        raise InputError(f"{source}: not a whole dense model to learn from: {'; '.join(problems)}.")
    check_kinds(ours, given, source=source)
    teacher.load_state_dict({key.removeprefix(f"{name}."): each for key, each in given.items()})
    return teacher


def _in_parallel(model: nn.Module) -> nn.Module:
    """The model under DDP where several processes train."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    # All processes track the same statistics, so buffers need not be sent around at every step.
    # Newer versions of torch have another name for this option and warn about the old name.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        model, device_ids=[comm.get_local_rank()] if on_gpu else None, **{word: False}
    )
