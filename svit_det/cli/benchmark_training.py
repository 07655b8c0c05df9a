"""A training step of the backbone alone, with the policy's own losses, as a detector takes it."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from svit_det.detection.token_losses import TokenLosses
from svit_det.training.distillation import dense_teacher
from svit_det.vit import find_token_net


class MapTask(nn.Module):
    """A task without heads: its loss is the sum of the mean squares of the backbone's maps."""

    def __init__(self, *, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, height, width) -> the loss under its name."""
        maps = self.backbone(images).values()
        return {"loss_maps": torch.stack([each.float().square().mean() for each in maps]).sum()}


class TrainedBackbone(TokenLosses, MapTask):
    """The task with a policy's share of training: losses, thresholds, a second pass."""


class TrainingStep:
    """Forward and backward in training mode; afterwards no gradient is left, no weight changed.

    The step is the recipe's last step, so that warm-ups are over. Every step draws the same numbers
    for dropped branches and for sampled decisions.
    """

    def __init__(self, backbone: nn.Module, cfg: CfgNode, *, dtype: torch.dtype) -> None:
        mixed = dtype != torch.float32
        self._autocast = {"device_type": cfg.MODEL.DEVICE.split(":")[0], "enabled": mixed}
        self._autocast["dtype"] = dtype if mixed else None
        self.last_step = max(cfg.SOLVER.MAX_ITER - 1, 0)
        self.model = TrainedBackbone(backbone=backbone, max_steps=cfg.SOLVER.MAX_ITER)
        net = find_token_net(backbone)
        if net.trunk.policy.needs_teacher:
            self.model.set_teacher(dense_teacher(net))
        self.model.train()

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """The losses by name, with the graph of their gradients."""
        torch.manual_seed(0)
        precision = torch.autocast(**self._autocast)
        with torch.enable_grad(), precision, EventStorage(self.last_step):
            return self.model(images)

    def __call__(self, images: Tensor) -> Any:
        """Take one step on images (B, 3, height, width)."""
        with torch.enable_grad():
            torch.stack(list(self.losses(images).values())).sum().backward()
        for parameter in self.model.parameters():
            parameter.grad = None
