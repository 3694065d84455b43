"""Teacher recovery: 0 without a LoRA, 1 with the teachers, more beyond them."""

import pytest
import torch

from tests.training.tiny_world import LAYOUT, PEOPLE, base_model, diffusion_loss, train_loras
from training.base_model.teacher_recovery import TeacherRecovery


def test_recovery_is_the_share_of_the_teachers_improvement():
    loss = diffusion_loss(base_model())
    teachers, better = train_loras(loss, 20), train_loras(loss, 60)
    recovery = TeacherRecovery(loss, PEOPLE, teachers)
    assert [recovery(0 * teachers), recovery(teachers)] == pytest.approx([0.0, 1.0])
    metrics = recovery.metrics(better)
    assert metrics["teacher_recovery"] > 1.1
    assert metrics["diffusion_loss"] < metrics["diffusion_loss_teacher"] < metrics["diffusion_loss_without_lora"]


def test_teachers_that_improve_nothing_are_an_error():
    loss, nothing = diffusion_loss(base_model()), torch.zeros(len(PEOPLE), LAYOUT.numel)
    recovery = TeacherRecovery(loss, PEOPLE, nothing)
    assert "teacher_recovery" not in recovery.metrics(nothing)
    with pytest.raises(ValueError, match="the teachers do not help on these images"):
        recovery(nothing)
