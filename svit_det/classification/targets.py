"""The targets of a batch, and the losses of the outputs.

B images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from svit_det.classification.model import CLASS_LOGITS, LOGITS
from svit_det.policies import TaskLosses
from svit_det.training.collectives import mean_over_processes


class Targets:
    """Labels to soft targets, with mixed images: timm's mixup, cutmix and label smoothing."""

    def __init__(self, given: Any, num_classes: int) -> None:
        self.num_classes = num_classes
        self.smoothing = given.LABEL_SMOOTHING
        self._mix = None
        if given.MIXUP or given.CUTMIX:
            self._mix = Mixup(
                mixup_alpha=given.MIXUP,
                cutmix_alpha=given.CUTMIX,
                switch_prob=given.MIX_SWITCH,
                label_smoothing=given.LABEL_SMOOTHING,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, h, w), labels (B,) -> images, possibly mixed, and soft targets (B, K)."""
        if self._mix is not None:
            return self._mix(images, labels)
        return images, mixup_target(labels, self.num_classes, 1.0, self.smoothing)


def task_losses(
    outputs: Mapping[str, Tensor],
    targets: Tensor,
    *,
    teacher: Mapping[str, Tensor] | None = None,
    teacher_weight: float = 0.0,
) -> TaskLosses:
    """`loss_class`, the cross entropy with soft targets (B, K), and `loss_logits` of a teacher.

    With two heads, `loss_class` is the mean of both heads' cross entropies (Evo-ViT). `loss_logits`
    is `teacher_weight` times the divergence of the logits from the teacher's logits, mean over
    images (DynamicViT, section 3.4).
    """
    logits = outputs[LOGITS].float()
    per_image = cross_entropy(logits, targets)
    if CLASS_LOGITS in outputs:
        second = cross_entropy(outputs[CLASS_LOGITS].float(), targets)
        per_image = 0.5 * per_image + 0.5 * second
    named = {"loss_class": per_image.mean()}
    if teacher is not None and teacher_weight:
        wanted = teacher[LOGITS].float().log_softmax(dim=1)
        off = F.kl_div(logits.log_softmax(dim=1), wanted, log_target=True, reduction="batchmean")
        named["loss_logits"] = teacher_weight * off
    return TaskLosses(named, per_image=per_image, mean=mean_over_processes)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, K) logits and soft targets -> (B,)."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1)
