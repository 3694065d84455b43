"""Validation by pictures: the frozen base model's denoising loss on people's held-out pictures, with a LoRA in place.

A small error in numbers can be a large one in pictures, and the other way round; this asks the pictures. They are those
that the pipeline's preprocess kept from the teachers' training (`preprocess.held_out`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from difflora_core.layout import LoRALayout

from .lora_dataset.base import DTYPES, SDXLBase
from .lora_dataset.config import DatasetConfig, load_config
from .lora_dataset.manifest import Manifest
from .lora_dataset.preprocess import read_prepared, read_texts
from .lora_dataset.verify import denoising_loss
from .lora_store import Person
from .rounds import Figures


@dataclass(frozen=True)
class PictureSettings:
    """dataset: the pipeline's YAML file, of whose workspace the base model and the pictures are taken. people: how many
    are looked at. every: rounds from one look to the next."""

    dataset: Path
    people: int = 8
    every: int = 1

    def __post_init__(self) -> None:
        if self.people < 1 or self.every < 1:
            raise ValueError(f"pictures: people and every are at least 1, found {self.people} and {self.every}")


class PictureCheck:
    """Losses of some people. rows: who they are, as places in the list of people that it was opened with."""

    def __init__(
        self, config: DatasetConfig, base: SDXLBase, layout: LoRALayout, people: Sequence[Person], count: int
    ) -> None:
        """Take the first `count` people who have held-out pictures.

        Raises:
            ValueError: nobody has; or the layout is not the base model's.
        """
        prepared = set(Manifest(config.stage("preprocess")).done())
        having = [row for row, person in enumerate(people) if str(person) in prepared]
        if not having or config.preprocess.held_out < 1:
            why = "preprocess.held_out is 0" if having else f"preprocess has pictures of none of {len(people)} people"
            raise ValueError(
                f"{config.workspace} holds no held-out pictures: {why}. Leave `pictures` out, or mend that."
            )
        unfit = layout.difference(base.layout(layout.rank, feed_forward=any(".ff." in name for name in layout.names)))
        if unfit is not None:
            raise ValueError(f"{config.base} does not fit the LoRAs: {unfit}.")
        self.config, self.base, self.layout, self.rows = config, base, layout, having[:count]
        self._people = [str(people[row]) for row in self.rows]
        self._without: Tensor | None = None
        self._teachers: Tensor | None = None

    @classmethod
    def open(cls, settings: PictureSettings, layout: LoRALayout, people: Sequence[Person], device: str) -> Self:
        """Load what the settings name; see the constructor."""
        config = load_config(settings.dataset)
        base = SDXLBase.open(config.base, device, DTYPES[config.dreambooth.dtype])
        return cls(config, base, layout, people, settings.people)

    def losses(self, loras: Tensor | None) -> Tensor:
        """Each person's mean loss (people,) with their LoRA of `loras` (people, numel), or without any. Always the same
        noise and timesteps."""
        values = []
        for row, person in enumerate(self._people):
            if loras is None:
                values.append(self._loss(person))
            else:
                with self.base.lora(loras[row].float().cpu(), self.layout):
                    values.append(self._loss(person))
        return torch.tensor(values)

    def figures(self, loras: Tensor, teachers: Tensor) -> Figures:
        """Mean losses of the LoRAs, of the teachers (people, numel) that they stand for, and without any.

        picture_gain: how much of the teachers' improvement is left, 0 as without a LoRA, 1 as the teachers; absent
        where the teachers improve nothing.
        """
        if self._without is None or self._teachers is None:
            self._without, self._teachers = self.losses(None), self.losses(teachers)
        own, without, teacher = (float(x.mean()) for x in (self.losses(loras), self._without, self._teachers))
        means = {"picture_loss": own, "picture_loss_teacher": teacher, "picture_loss_without": without}
        return means | ({"picture_gain": (without - own) / (without - teacher)} if teacher < without else {})

    def _loss(self, person: str) -> float:
        _, kept = read_prepared(self.config, person).split(self.config.preprocess.held_out)
        texts = read_texts(self.config, kept.captions)
        return denoising_loss(self.base, kept.latents, *texts, self.config.preprocess.size)
