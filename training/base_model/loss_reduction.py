"""Loss reduction: what share of the base model's diffusion loss on people's held-out images do their LoRAs take away?

Where there are teachers, `teacher_recovery` compares with theirs. Without any, this measures the same thing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .held_out_loss import held_out_losses
from .lora_diffusion_loss import LoRADiffusionLoss
from .person_images import PersonImages


class LossReduction:
    """1 − loss with a LoRA / loss without: 0 is no better than the base model, and 1 can't be reached.

    The images should be none that anything was trained on, and neither should the people.
    """

    metric = "loss_reduction"
    """Name of what a call returns, among `metrics`."""

    def __init__(self, loss: LoRADiffusionLoss, people: Sequence[PersonImages], people_per_batch: int = 16) -> None:
        """Measure the loss without LoRAs.

        Args:
            loss: Through the base model.
            people: Their held-out images.
            people_per_batch: See `held_out_losses`.
        """
        self.loss, self.people, self.people_per_batch = loss, people, people_per_batch
        self.without = self.mean_loss(torch.zeros(len(people), loss.layout.numel))

    def mean_loss(self, loras: Tensor) -> float:
        """Return the mean loss of the people with their LoRAs (people, numel)."""
        return float(held_out_losses(self.loss, loras, self.people, self.people_per_batch).mean())

    def metrics(self, loras: Tensor) -> dict[str, float]:
        """Return mean losses with LoRAs (people, numel) of the people and without any, and `loss_reduction`."""
        own = self.mean_loss(loras)
        return {
            "diffusion_loss": own,
            "diffusion_loss_without_lora": self.without,
            "loss_reduction": 1.0 - own / self.without,
        }

    def __call__(self, loras: Tensor) -> float:
        """Return `loss_reduction` alone."""
        return self.metrics(loras)[self.metric]
