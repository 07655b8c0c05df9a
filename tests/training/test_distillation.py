"""A frozen dense teacher, and the loss between its tokens and the student's."""

from dataclasses import replace

import pytest
import torch

from svit_det.policies import TrunkShape
from svit_det.policies.gating import token_distillation
from svit_det.policies.svit import SViT
from svit_det.tokens import PassRecord, TokenGrid
from svit_det.training.distillation import dense_teacher, seen_images, teach
from svit_det.vit import PlainViT


def a_pass(values):
    """A pass that ended with these patch tokens: values[image][token], two channels each."""
    tokens = torch.tensor(values).unsqueeze(-1).repeat(1, 1, 2)
    return PassRecord((), TokenGrid.of_tokens(1, tokens.shape[1]), {}, tokens)


def test_by_hand():
    """Differences 1, 3 and 0, 2: squares 1, 9, 0, 4."""
    student, teacher = a_pass([[1.0, 4.0], [5.0, 2.0]]), a_pass([[0.0, 1.0], [5.0, 4.0]])
    assert token_distillation(student, teacher).item() == pytest.approx(14 / 4)
    keep = torch.tensor([[True, False], [True, True]])
    assert token_distillation(student, teacher, keep).item() == pytest.approx(5 / 3)
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert token_distillation(student, teacher, none).item() == 0


def test_gradients_reach_the_student_only():
    student, teacher = a_pass([[1.0, 4.0]]), a_pass([[0.0, 1.0]])
    student.tokens.requires_grad_()
    teacher.tokens.requires_grad_()
    token_distillation(student, replace(teacher, tokens=teacher.tokens.detach())).backward()
    assert student.tokens.grad.abs().sum() > 0
    assert teacher.tokens.grad is None


def test_the_teacher_is_dense_frozen_and_apart(tiny_trunk, images):
    policy = SViT(config=SViT.Config(), shape=TrunkShape(24, 12, 3))
    net = PlainViT(trunk=tiny_trunk(policy)).train()
    teacher = dense_teacher(net)
    assert net.trunk.policy is policy and net.training
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    batch = images(2)
    with seen_images(net) as given:
        net(batch)
    (seen,) = given
    assert seen is batch
    record = teach(teacher, seen)
    assert all(block.everyone for block in record.blocks)
    assert not record.tokens.requires_grad
    with torch.no_grad():
        net.trunk.pos_embed.add_(1)
    assert torch.equal(teach(teacher, seen).tokens, record.tokens)
