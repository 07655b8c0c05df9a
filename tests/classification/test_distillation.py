"""The divergence from the teacher's logits, worked by hand: two images, three classes.

Logits are logarithms of small whole numbers, so that the probabilities are fractions.

              student           teacher
    image 0   1/4  1/4  1/2     3/4  1/8  1/8
    image 1   1/8  3/8  1/2     1/4  1/4  1/2

The divergence of an image is the sum over the classes of teacher * ln(teacher / student):

    image 0   3/4 ln 3 + 1/8 ln 1/2 + 1/8 ln 1/4 = 0.823959 - 0.086643 - 0.173287 = 0.564029
    image 1   1/4 ln 2 + 1/4 ln 2/3 + 0          = 0.173287 - 0.101366            = 0.071921

The other way around, image 0 would have 1/4 ln 1/3 + 1/4 ln 2 + 1/2 ln 4 = 0.591781. The mean over
the images is 0.317975; at a weight of 0.5 the loss is 0.158987.
"""

import pytest
import torch

from svit_det.classification.targets import task_losses

STUDENT = [[1.0, 1.0, 2.0], [1.0, 3.0, 4.0]]
TEACHER = [[6.0, 1.0, 1.0], [1.0, 1.0, 2.0]]
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def losses(student, teacher, weight):
    outputs, taught = {"logits": student}, {"logits": teacher}
    return task_losses(outputs, TARGETS, teacher=taught, teacher_weight=weight)


def test_by_hand():
    student, teacher = torch.tensor(STUDENT).log(), torch.tensor(TEACHER).log()
    named = losses(student, teacher, 0.5).named
    assert named["loss_logits"].item() == pytest.approx(0.158987, abs=2e-6)
    assert losses(student, teacher, 1.0).named["loss_logits"].item() == pytest.approx(
        0.317975, abs=2e-6
    )
    # The labels' own loss is as without a teacher: the mean of -ln 1/4 and -ln 3/8.
    assert named["loss_class"].item() == pytest.approx((1.386294 + 0.980829) / 2, abs=2e-6)


def test_a_constant_in_the_logits_changes_nothing():
    student, teacher = torch.tensor(STUDENT).log() + 7, torch.tensor(TEACHER).log() - 3
    assert losses(student, teacher, 0.5).named["loss_logits"].item() == pytest.approx(
        0.158987, abs=2e-6
    )


def test_the_gradient_is_student_less_teacher():
    """Each logit's gradient: (student - teacher) * 0.5 / 2 images; the teacher gets none."""
    student = torch.tensor(STUDENT).log().requires_grad_()
    teacher = torch.tensor(TEACHER).log()
    losses(student, teacher, 0.5).named["loss_logits"].backward()
    wanted = [[-0.125, 0.03125, 0.09375], [-0.03125, 0.03125, 0.0]]
    torch.testing.assert_close(student.grad, torch.tensor(wanted))


def test_a_student_that_has_learned_all():
    same = torch.tensor(TEACHER).log()
    assert losses(same, same.clone(), 0.5).named["loss_logits"].item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("teacher", "weight"), [(None, 0.5), ({"logits": TARGETS}, 0.0)])
def test_without_a_teacher_or_a_weight_there_is_no_such_loss(teacher, weight):
    outputs = {"logits": torch.tensor(STUDENT).log()}
    named = task_losses(outputs, TARGETS, teacher=teacher, teacher_weight=weight).named
    assert set(named) == {"loss_class"}


def test_logits_in_half_precision_are_compared_in_full():
    student, teacher = torch.tensor(STUDENT).log(), torch.tensor(TEACHER).log()
    halves = losses(student.bfloat16(), teacher.bfloat16(), 0.5).named["loss_logits"]
    assert halves.dtype == torch.float32
    assert halves.item() == pytest.approx(0.158987, rel=0.02)
