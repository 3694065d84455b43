"""What fine-tuning needs, of the LAE or of MIF and DiT: base model, stores, validation people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout
from training.base_model.interface import BaseModel
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.teacher_recovery import TeacherRecovery
from training.engine.accelerator import open_accelerator
from training.engine.config import TrainConfig
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.fingerprints import hash_value
from training.lora_dataset.manifest import Manifest
from training.people.dataset_images import DatasetImages, dataset_loss, held_out_files, image_identity, open_base_model
from training.people.dataset_splits import splits_of, stored_splits
from training.people.embeddings import EmbeddingCache
from training.people.latents import cached_latents
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk, digest_of_loras, open_loras, open_stores, people_of
from training.store.shard import Person

from .objectives import FinetuneDataset
from .settings import FinetuneSettings

RUN = "run"
"""In the output folder: the run's state, log and TensorBoard files."""
PEOPLE_PER_BATCH = 4  # in validation


@dataclass(frozen=True)
class FinetuneInputs:
    """The opened inputs of a run."""

    settings: FinetuneSettings
    """What was asked for."""
    layout: LoRALayout
    """Of all LoRAs."""
    accelerator: Accelerator
    """Of the run."""
    dataset: DatasetConfig
    """The people's images."""
    stores: list[LoRAStore]
    """Their teachers."""
    base: BaseModel
    """Frozen."""
    validation: list[Person]
    """People who are evaluated."""
    validation_loras: Tensor
    """Their teachers (people, numel)."""
    recovery: TeacherRecovery
    """Evaluates LoRAs of the validation people."""
    seed: int
    """Of the training."""

    @classmethod
    def open(cls, settings: FinetuneSettings, loop: TrainConfig, layout: LoRALayout, trackers: bool = True) -> Self:
        """Open everything that the settings name.

        Args:
            settings: Of the command.
            loop: Of the network that is trained.
            layout: Of the network.
            trackers: Whether to start the run's trackers.

        Raises:
            FileNotFoundError: A file or folder is missing.
            ValueError: The parts don't fit together, or the stores lack a split.
        """
        accelerator = open_accelerator(loop, settings.output / RUN if trackers else None, "finetune")
        dataset, stores = load_config(settings.dataset), open_stores(settings.stores, layout)
        for split in ("train", "validation"):
            if not people_of(stores, split):
                folders = ", ".join(str(store.folder) for store in stores)
                raise ValueError(
                    f"{folders} holds no LoRAs of the split {split!r}: expected teachers to train on and others to "
                    "validate with (pack.validation of the dataset)"
                )
        check_held_out(dataset, stores)
        base = open_base_model(dataset, layout, str(accelerator.device))
        validation = people_of(stores, "validation")[: settings.validation_people]
        loras = open_loras(stores, "validation", 0).read(range(len(validation)))
        held_out = DatasetImages(dataset, validation, held_out=True)
        loss = dataset_loss(base, layout, held_out, settings.images_per_person)
        recovery = TeacherRecovery(loss, held_out, loras, PEOPLE_PER_BATCH)
        return cls(
            settings=settings,
            layout=layout,
            accelerator=accelerator,
            dataset=dataset,
            stores=stores,
            base=base,
            validation=validation,
            validation_loras=loras,
            recovery=recovery,
            seed=loop.seed,
        )

    @property
    def device(self) -> torch.device:
        """Of the run."""
        device: torch.device = self.accelerator.device
        return device

    def identity(self, people: Sequence[Person]) -> dict[str, Any]:
        """Return what a run on these people can't be resumed without, beside the training's settings."""
        return {
            "images_per_person": self.settings.images_per_person,
            "people": hash_value(list(map(str, people))),
            "validation people": hash_value(list(map(str, self.validation))),
            "LoRAs (hash)": digest_of_loras(*(LoRAsOnDisk(self.stores, split) for split in ("train", "validation"))),
            **image_identity(self.dataset, [*people, *self.validation]),
        }

    def images(self, people: Sequence[Person]) -> tuple[DatasetImages, LoRADiffusionLoss]:
        """Return people's training images, and the diffusion loss on them."""
        images = DatasetImages(self.dataset, people)
        settings = self.settings
        return images, dataset_loss(
            self.base,
            self.layout,
            images,
            settings.images_per_person,
            self.seed,
            settings.gradient_checkpointing,
        )

    def references(self, cache: EmbeddingCache) -> tuple[Tensor, Tensor]:
        """Average the validation people's references, face and image (people, width), without held-out images."""
        given = cache.without(held_out_files(self.dataset, self.validation))
        return given.of(self.validation)[0].first(self.settings.references)

    def finetune_people(self, cache: EmbeddingCache) -> list[Person]:
        """List all people with embeddings and images who are in no other split; those with a teacher come first.

        Of the others the dataset says who is kept from training, whether or not they have a teacher by now.
        """
        teachers, stored = people_of(self.stores, "train"), stored_splits(self.stores)
        prepared = splits_of(self.dataset, Manifest(self.dataset.stage("preprocess")).done())
        others = [person for person, split in prepared.items() if split == "train" and person not in stored]
        return [*teachers, *(person for person in others if person in cache.people)]

    def finetune_dataset(
        self, people: Sequence[Person], cache: EmbeddingCache, lae: LAE
    ) -> tuple[FinetuneDataset, LoRADiffusionLoss]:
        """Collect conditions and images of `finetune_people`, and the latents of their teachers."""
        conditions, _ = cache.of(people)
        images, loss = self.images(people)
        path = self.settings.output / RUN / "latents_train.safetensors"
        with self.accelerator.main_process_first():  # the others read what it has encoded
            latents, teachers = cached_latents(self.stores, "train", lae, path, str(self.device))
        return FinetuneDataset(conditions, images, torch.arange(len(teachers)), latents), loss


def check_held_out(dataset: DatasetConfig, stores: Sequence[LoRAStore]) -> None:
    """Check that the dataset, whose people are evaluated, keeps nobody from training who is trained on here.

    Raises:
        ValueError: It does; somebody is named.
    """
    prepared = set(Manifest(dataset.stage("preprocess")).done())
    taught = [str(person) for person in people_of(stores, "train")]
    for person, split in splits_of(dataset, [person for person in taught if person in prepared]).items():
        if split != "train":
            raise ValueError(
                f"{person} is in the split train of `stores`, and in the split {split} of the dataset in "
                f"{dataset.workspace}, which keeps its people from training: name the dataset's own store, or set "
                f"pack.validation and pack.test of the dataset to those of the stores"
            )
