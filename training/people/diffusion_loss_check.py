"""Validation by the base model's diffusion loss on held-out images, every so many evaluations.

The images are those that the dataset's stage `preprocess` kept from the teachers' training (`preprocess.held_out`).
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from difflora_core.lora.layout import LoRALayout
from training.base_model.interface import BaseModel
from training.base_model.teacher_recovery import TeacherRecovery
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest
from training.store.loras import LoRAs
from training.store.shard import Person

from .config import DiffusionLossCheckSettings
from .dataset_images import DatasetImages, dataset_loss, open_base_model

IMAGES_PER_PERSON, PEOPLE_PER_BATCH = 4, 1  # little memory beside a network in training


class DiffusionLossCheck:
    """The check of some validation people.

    The base model is loaded at the first check, and waits in host memory between two checks.
    """

    def __init__(
        self,
        settings: DiffusionLossCheckSettings,
        layout: LoRALayout,
        people: Sequence[Person],
        teachers: LoRAs,
        device: torch.device,
    ) -> None:
        """Choose the people.

        Args:
            settings: Which and how many.
            layout: Of the LoRAs.
            people: Validation people.
            teachers: Their LoRAs, in the same order.
            device: Of the base model.

        Raises:
            ValueError: None of the people has held-out images.
        """
        self.settings, self.layout, self.device = settings, layout, device
        self.config = load_config(settings.dataset)
        self.rows = _people_with_images(self.config, people)[: settings.people]
        """Positions in `people` of those who are checked."""
        self.people = [people[row] for row in self.rows]
        self.teachers = teachers.read(self.rows)
        """Their teachers (people, numel)."""

    def is_due(self, evaluation: int) -> bool:
        """Whether the evaluation of this number includes the check."""
        return evaluation % self.settings.every == 0

    def metrics(self, loras: Tensor) -> dict[str, float]:
        """Return `TeacherRecovery.metrics` of LoRAs (people, numel) of the people at `rows`."""
        with self._base_model.unet_on_device():
            return self._recovery.metrics(loras)

    @cached_property
    def _base_model(self) -> BaseModel:
        return open_base_model(self.config, self.layout, str(self.device))

    @cached_property
    def _recovery(self) -> TeacherRecovery:
        images = DatasetImages(self.config, self.people, held_out=True)
        loss = dataset_loss(self._base_model, self.layout, images, IMAGES_PER_PERSON)
        return TeacherRecovery(loss, images, self.teachers, PEOPLE_PER_BATCH)


def _people_with_images(config: DatasetConfig, people: Sequence[Person]) -> list[int]:
    prepared = set(Manifest(config.stage("preprocess")).done())
    rows = [row for row, person in enumerate(people) if str(person) in prepared]
    if not rows or config.preprocess.held_out < 1:
        why = "preprocess.held_out is 0" if rows else f"preprocess has images of none of {len(people)} people"
        raise ValueError(
            f"{config.workspace} holds no held-out images: {why}. Leave the section `diffusion_loss_check` out, or run "
            "that stage with held-out images."
        )
    return rows
