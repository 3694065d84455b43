"""Validation by pictures: how much of what teachers gain on their people's held-out pictures do other LoRAs gain?

A small error in numbers can be a large one in pictures, and the other way round; this asks the pictures.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.rounds import Figures

from .diffusion_loss import PersonImages
from .lora_loss import LoRADiffusionLoss

DRAWS = 4
"""Batches of each person's pictures; their noise and timesteps never change."""


@torch.no_grad()
def held_out_losses(
    pictures: LoRADiffusionLoss, loras: Tensor, albums: Sequence[PersonImages], people: int = 16
) -> Tensor:
    """Each person's loss (people,) on their pictures, with always the same noise: only to be compared with others'.

    people: at once in a batch, which has `pictures.rows` of each.
    """
    rows = []
    for start in range(0, len(loras), people):
        chunk = slice(start, start + people)
        losses = [pictures(loras[chunk].to(pictures.device), albums[chunk], -1 - draw) for draw in range(DRAWS)]
        rows.append(torch.stack(losses).mean(0).cpu())
    return torch.cat(rows)


class TeacherRecovery:
    """0 as without a LoRA, 1 as the teachers, more than 1 where they are beaten.

    The pictures should be none that a teacher was trained on, and the people none that a network was.
    """

    def __init__(
        self, pictures: LoRADiffusionLoss, albums: Sequence[PersonImages], teachers: Tensor, people_at_once: int = 16
    ) -> None:
        """albums: of each person. teachers: (people, numel), theirs."""
        self.pictures, self.albums, self.people_at_once = pictures, albums, people_at_once
        self.without = self._loss(torch.zeros_like(teachers))
        self.teacher = self._loss(teachers)

    def _loss(self, loras: Tensor) -> float:
        return float(held_out_losses(self.pictures, loras, self.albums, self.people_at_once).mean())

    def figures(self, loras: Tensor) -> Figures:
        """Mean losses with LoRAs (people, numel) of the same people, with the teachers, and without any.

        `teacher_recovery` is absent where the teachers gain nothing: there is nothing to compare with.
        """
        own = self._loss(loras)
        means = {
            "diffusion_loss": own,
            "diffusion_loss_teacher": self.teacher,
            "diffusion_loss_without_lora": self.without,
        }
        gained = self.without - self.teacher
        return means | ({"teacher_recovery": (self.without - own) / gained} if gained > 0 else {})

    def __call__(self, loras: Tensor) -> float:
        """`teacher_recovery` alone.

        Raises:
            ValueError: the teachers gain nothing.
        """
        figures = self.figures(loras)
        if "teacher_recovery" not in figures:
            raise ValueError(
                f"With their teachers the held-out pictures of {len(self.albums)} people have the loss "
                f"{self.teacher:.5f}, without {self.without:.5f}: the teachers are no use on these pictures, or are "
                "not of this base model."
            )
        return figures["teacher_recovery"]
