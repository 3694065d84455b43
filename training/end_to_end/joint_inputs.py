"""What joint training needs: base model, people with images and embeddings, untrained networks, perhaps teachers."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from training.base_model.interface import BaseModel
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.loss_reduction import LossReduction
from training.base_model.teacher_recovery import TeacherRecovery
from training.engine.accelerator import open_accelerator
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.fingerprints import hash_value
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stages.pack_plan import split_of
from training.people.conditions import Conditions
from training.people.dataset_images import DatasetImages, dataset_loss, held_out_files, image_identity, open_base_model
from training.people.embed import embed_and_open
from training.people.embeddings import EmbeddingCache
from training.people.latents import digest_of_lae
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk, digest_of_loras, open_loras, open_stores, people_of

from .inputs import PEOPLE_PER_BATCH, RUN
from .joint_objective import JointNetwork, JointObjective, JointTeachers
from .joint_start import FITTED_DEVIATION, new_lae, new_network, start_from_conditions
from .settings import JointSettings


@dataclass(frozen=True)
class JointInputs:
    """The opened inputs of a run."""

    settings: JointSettings
    """What was asked for."""
    accelerator: Accelerator
    """Of the run."""
    dataset: DatasetConfig
    """The people's images."""
    base: BaseModel
    """Frozen."""
    network: JointNetwork
    """Untrained."""
    people: list[str]
    """Who are trained on."""
    conditions: Conditions
    """Their embeddings."""
    validation: list[str]
    """Who are evaluated."""
    references: tuple[Tensor, Tensor]
    """Face and image embeddings (people, width) of their references."""
    embeddings_hash: str
    """Of what all these embeddings were made from."""
    stores: list[LoRAStore]
    """Of teachers; may be empty."""
    validation_with_teacher: list[str]
    """People of the split validation who have a teacher there."""

    @classmethod
    def open(cls, settings: JointSettings, trackers: bool = True) -> Self:
        """Open everything that the settings name; embed the images if that has not been done.

        Args:
            settings: Of the command.
            trackers: Whether to start the run's trackers.

        Raises:
            FileNotFoundError: A file or folder is missing.
            ValueError: The parts don't fit together, or a split has nobody, or no teacher of those who are trained on.
        """
        assert settings.embeddings.dataset is not None
        loop = settings.training.loop
        accelerator = open_accelerator(loop, settings.output / RUN if trackers else None, "teacher_free")
        dataset = load_config(settings.embeddings.dataset)
        widths = settings.mif.face_width, settings.mif.image_width
        cache = embed_and_open(settings.embeddings, settings.encoders, widths, accelerator)
        splits = prepared_people(dataset, cache)
        validation = splits["validation"][: settings.validation_people]
        lae = new_lae(settings, dataset)
        conditions = cache.of(splits["train"])[0]
        network = new_network(settings, lae, cache.widths)
        generator = torch.Generator().manual_seed(settings.training.loop.seed)
        deviation = 1.0 if settings.network is None else FITTED_DEVIATION
        start_from_conditions(network.denoiser, *conditions.first(settings.references), generator, deviation)
        network.to(accelerator.device)
        base = open_base_model(dataset, lae.layout, str(accelerator.device))
        given = cache.without(held_out_files(dataset, validation))
        references = given.of(validation)[0].first(settings.references)
        stores = open_stores(settings.stores, lae.layout) if settings.stores else []
        known = {str(person) for person in people_of(stores, "validation")}
        with_teacher = [person for person in splits["validation"] if person in known][: settings.validation_people]
        return cls(
            settings=settings,
            accelerator=accelerator,
            dataset=dataset,
            base=base,
            network=network,
            people=splits["train"],
            conditions=conditions,
            validation=validation,
            references=references,
            embeddings_hash=hash_value([cache.digest(splits["train"]), given.digest(validation)]),
            stores=stores,
            validation_with_teacher=with_teacher,
        )

    def objective(self) -> JointObjective:
        """Make the training loss."""
        images = DatasetImages(self.dataset, self.people)
        loss = dataset_loss(
            self.base,
            self.network.lae.layout,
            images,
            self.settings.images_per_person,
            self.settings.training.loop.seed,
            self.settings.gradient_checkpointing,
        )
        return JointObjective(self.network, self.conditions, images, loss, self.settings.training, self.teachers())

    def teachers(self) -> JointTeachers | None:
        """Open the teachers of those who are trained on; others in the split train of the stores are left out."""
        if not self.stores:
            return None
        stored = [str(person) for person in people_of(self.stores, "train")]
        positions = {person: position for position, person in enumerate(self.people)}
        rows = [row for row, person in enumerate(stored) if person in positions]
        if self.accelerator.is_main_process:
            print(
                f"teachers     {len(rows):,} of the {len(stored):,} LoRAs in the split train are of the "
                f"{len(self.people):,} people who are trained on; of validation people there are "
                f"{len(self.validation_with_teacher)}",
                flush=True,
            )
        loras = open_loras(self.stores, "train", 1e9 * self.settings.in_memory_gb)
        return JointTeachers(loras, rows, [positions[stored[row]] for row in rows])

    def teacher_recovery(self) -> tuple[TeacherRecovery, Tensor] | None:
        """Make the evaluation of validation people's teachers (people, numel); None if there are none."""
        if not self.validation_with_teacher:
            return None
        stored = [str(person) for person in people_of(self.stores, "validation")]
        loras = open_loras(self.stores, "validation", 0).read(
            [stored.index(person) for person in self.validation_with_teacher]
        )
        images, loss = self._held_out(self.validation_with_teacher)
        return TeacherRecovery(loss, images, loras, PEOPLE_PER_BATCH), loras

    def loss_reduction(self) -> LossReduction:
        """Make the evaluation of validation people."""
        images, loss = self._held_out(self.validation)
        return LossReduction(loss, images, PEOPLE_PER_BATCH)

    def _held_out(self, people: list[str]) -> tuple[DatasetImages, LoRADiffusionLoss]:
        """Return people's held-out images, and the diffusion loss on them."""
        images = DatasetImages(self.dataset, people, held_out=True)
        return images, dataset_loss(self.base, self.network.lae.layout, images, self.settings.images_per_person)

    def identity(self) -> dict[str, Any]:
        """Return what a run can't be resumed without, beside the training's settings; asked before it is resumed."""
        settings, lae = self.settings, self.network.lae
        teachers = [LoRAsOnDisk(self.stores, split) for split in ("train", "validation")]
        stored = [person for split in ("train", "validation") for person in people_of(self.stores, split)]
        return {
            "starting LAE": digest_of_lae(lae)[:16] if settings.network else "untrained",
            "lae": asdict(lae.config),
            "dit": asdict(settings.dit),
            "mif": asdict(settings.mif),
            "encoders": asdict(settings.encoders),
            "images_per_person": settings.images_per_person,
            "references": settings.references,
            "people": hash_value(self.people),
            "validation people": hash_value(self.validation),
            "people with a teacher": hash_value(list(map(str, stored))),
            "LoRAs (hash)": digest_of_loras(*teachers),
            "embeddings (hash)": self.embeddings_hash,
            **image_identity(self.dataset, [*self.people, *self.validation]),
        }


def prepared_people(dataset: DatasetConfig, cache: EmbeddingCache) -> dict[str, list[str]]:
    """List the people who have images and embeddings, by split.

    Raises:
        ValueError: Nobody can be trained on, or nobody validated with.
    """
    prepared = [person for person in Manifest(dataset.stage("preprocess")).done() if person in cache.people]
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for person in prepared:
        splits[split_of(person, dataset.pack.validation, dataset.pack.test)].append(person)
    for name in ("train", "validation"):
        if not splits[name]:
            raise ValueError(
                f"none of {len(prepared)} people with images and embeddings in {dataset.workspace} is in the split "
                f"{name!r}: add people, or set pack.validation to another share"
            )
    return splits
