"""The pipeline's held-out pictures and base model, for a look at validation people every so many rounds.

The pictures are those that the pipeline's preprocess kept from the teachers' training (`preprocess.held_out`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from difflora_core.lora.layout import LoRALayout
from training.base_model.sdxl import SDXLBase
from training.base_model.teacher_recovery import TeacherRecovery
from training.engine.rounds import Figures
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest
from training.store.lora_store import Person

from .dataset_images import DatasetImages, dataset_loss, open_base

ROWS, PEOPLE_AT_ONCE = 4, 1  # pictures of one person in a batch: little memory beside a network in training


@dataclass(frozen=True)
class DiffusionLossCheckSettings:
    """dataset: the pipeline's YAML file, of whose workspace the base model and the pictures are taken. people: how many
    are looked at. every: rounds from one look to the next.
    """

    dataset: Path
    people: int = 8
    every: int = 1

    def __post_init__(self) -> None:
        if self.people < 1 or self.every < 1:
            raise ValueError(f"pictures: people and every are at least 1, found {self.people} and {self.every}")


class DiffusionLossCheck:
    """Figures of some people. rows: who they are, as places in the list of people that it was opened with.

    Between two looks the base model waits in the host's memory.
    """

    def __init__(
        self, config: DatasetConfig, base: SDXLBase, layout: LoRALayout, people: Sequence[Person], count: int
    ) -> None:
        """Take the first `count` people who have held-out pictures. Raises ValueError if nobody has."""
        prepared = set(Manifest(config.stage("preprocess")).done())
        having = [row for row, person in enumerate(people) if str(person) in prepared]
        if not having or config.preprocess.held_out < 1:
            why = "preprocess.held_out is 0" if having else f"preprocess has pictures of none of {len(people)} people"
            raise ValueError(
                f"{config.workspace} holds no held-out pictures: {why}. Leave `pictures` out, or mend that."
            )
        self.base, self.rows = base, having[:count]
        self.albums = DatasetImages(config, [people[row] for row in self.rows], held_out=True)
        self.loss = dataset_loss(base, layout, self.albums, ROWS)
        self._gain: TeacherRecovery | None = None

    @classmethod
    def open(
        cls, settings: DiffusionLossCheckSettings, layout: LoRALayout, people: Sequence[Person], device: str
    ) -> Self:
        """Load what the settings name; see the constructor. Raises ValueError if the base model has another layout."""
        config = load_config(settings.dataset)
        return cls(config, open_base(config, layout, device), layout, people, settings.people)

    def figures(self, loras: Tensor, teachers: Tensor) -> Figures:
        """See `TeacherRecovery.figures`. teachers: (people, numel), always the same, of which the first look keeps the
        loss.
        """
        with self.base.working_unet():
            if self._gain is None:
                self._gain = TeacherRecovery(self.loss, self.albums, teachers, PEOPLE_AT_ONCE)
            return self._gain.figures(loras)
