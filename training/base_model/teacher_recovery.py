"""Teacher recovery: what share of the teachers' improvement on held-out images do other LoRAs reach?

A small error of weights can be a large one of images, and the other way round; this measures images.
"""

from collections.abc import Sequence

from torch import Tensor

from .lora_diffusion_loss import LoRADiffusionLoss
from .loss_reduction import LossReduction
from .person_images import PersonImages


class TeacherRecovery(LossReduction):
    """Share of the teachers' improvement in diffusion loss: 0 without a LoRA, 1 with the teachers, above 1 beyond them.

    The images should be none that a teacher was trained on, and the people none that a network was trained on.
    """

    metric = "teacher_recovery"

    def __init__(
        self, loss: LoRADiffusionLoss, people: Sequence[PersonImages], teachers: Tensor, people_per_batch: int = 16
    ) -> None:
        """Measure the loss with the teachers and without.

        Args:
            loss: Through the base model.
            people: Their held-out images.
            teachers: Their teachers' LoRAs (people, numel).
            people_per_batch: See `held_out_losses`.
        """
        super().__init__(loss, people, people_per_batch)
        self.teacher = self.mean_loss(teachers)

    def metrics(self, loras: Tensor) -> dict[str, float]:
        """Return mean losses with LoRAs (people, numel) of the same people, with the teachers, and without any.

        `teacher_recovery` is absent where the teachers improve nothing: there is nothing to compare with.
        """
        metrics = super().metrics(loras) | {"diffusion_loss_teacher": self.teacher}
        improvement = self.without - self.teacher
        if improvement > 0:
            metrics["teacher_recovery"] = (self.without - metrics["diffusion_loss"]) / improvement
        return metrics

    def __call__(self, loras: Tensor) -> float:
        """Return `teacher_recovery` alone.

        Raises:
            ValueError: The teachers improve nothing.
        """
        metrics = self.metrics(loras)
        if "teacher_recovery" not in metrics:
            raise ValueError(
                f"With their teachers the held-out images of {len(self.people)} people have the loss "
                f"{self.teacher:.5f}, without {self.without:.5f}: the teachers do not help on these images, or are "
                "not of this base model."
            )
        return metrics["teacher_recovery"]
