"""Distillation: a frozen dense teacher beside the student.

B images. Source: DynamicViT (Rao et al. 2021), section 3.4.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from svit_det.policies.dense import Dense
from svit_det.tokens import PassRecord
from svit_det.vit import TokenNet


def dense_teacher(net: TokenNet) -> TokenNet:
    """A frozen copy of `net` that keeps every token, in eval mode, with weights of its own."""
    teacher = copy.deepcopy(net)
    teacher.trunk.policy = Dense()
    return teacher.requires_grad_(False).eval()


@torch.no_grad()
def teach(teacher: TokenNet, images: Tensor) -> PassRecord:
    """The teacher's pass on the images (B, 3, height, width) that the student saw."""
    return teacher(images)[1]


@contextmanager
def seen_images(net: TokenNet) -> Iterator[list[Tensor]]:
    """Collect the images that `net` is given inside the with-block."""
    images: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
    try:
        yield images
    finally:
        handle.remove()
