"""Train MIF, DiT and LAE together from people's images, without teachers or beside some, into a DiffLoRA checkpoint.

python -m training train-teacher-free --config FILE
accelerate launch -m training train-teacher-free --config FILE    # on several GPUs
"""

import datetime
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from difflora_core.config import DiffLoRAConfig
from difflora_core.denoiser.config import SamplingConfig
from difflora_core.model import DiffLoRA
from training.base_model.interface import BaseModel
from training.base_model.loss_reduction import LossReduction
from training.base_model.teacher_recovery import TeacherRecovery
from training.engine.accelerator import close_trackers, open_accelerator
from training.engine.evaluated_run import History
from training.engine.step_cost import measure_step
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.fingerprints import hash_value
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stages.pack_plan import split_of
from training.people.assembly import assemble
from training.people.conditions import Conditions
from training.people.dataset_images import DatasetImages, dataset_loss, held_out_files, image_identity, open_base_model
from training.people.embed import embed_and_open
from training.people.embeddings import EmbeddingCache
from training.people.latents import digest
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk, digest_of_loras, open_loras, open_stores, people_of
from training.trainer_command import TrainerCommand

from .inputs import PEOPLE_PER_BATCH, RUN
from .joint_objective import JointNetwork, JointObjective, JointTeachers
from .joint_start import FITTED_DEVIATION, new_lae, new_network, start_from_conditions
from .recovery_metrics import sampled_recovery
from .sampling_choice import choose_sampling
from .settings import JointSettings
from .train import train_joint

RESULT = "difflora.safetensors"
MIN_IMPROVEMENT = 0.01  # of the best loss reduction, see `choose_sampling`


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
    embedded: str
    """Hash of what all these embeddings were made from."""
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
            settings,
            accelerator,
            dataset,
            base,
            network,
            splits["train"],
            conditions,
            validation,
            references,
            hash_value([cache.digest(splits["train"]), given.digest(validation)]),
            stores,
            with_teacher,
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
        images = DatasetImages(self.dataset, self.validation_with_teacher, held_out=True)
        loss = dataset_loss(self.base, self.network.lae.layout, images, self.settings.images_per_person)
        return TeacherRecovery(loss, images, loras, PEOPLE_PER_BATCH), loras

    def identity(self) -> dict[str, Any]:
        """Return what a run can't be resumed without, beside the training's settings; asked before it is resumed."""
        settings, lae = self.settings, self.network.lae
        teachers = [LoRAsOnDisk(self.stores, split) for split in ("train", "validation")]
        stored = [person for split in ("train", "validation") for person in people_of(self.stores, split)]
        return {
            "starting LAE": digest(lae)[:16] if settings.network else "untrained",
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
            "embeddings (hash)": self.embedded,
            **image_identity(self.dataset, [*self.people, *self.validation]),
        }

    def loss_reduction(self) -> LossReduction:
        """Make the evaluation of validation people."""
        images = DatasetImages(self.dataset, self.validation, held_out=True)
        loss = dataset_loss(self.base, self.network.lae.layout, images, self.settings.images_per_person)
        return LossReduction(loss, images, PEOPLE_PER_BATCH)


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


def train(settings: JointSettings) -> Path:
    """Train as the settings say, or resume; return the checkpoint, which the first process writes.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: The parts don't fit together.
    """
    inputs = JointInputs.open(settings)
    evaluation = inputs.loss_reduction()
    history = train_joint(
        inputs.network,
        inputs.objective(),
        inputs.references,
        evaluation,
        settings.training,
        settings.output / RUN,
        "teacher_free",
        inputs.accelerator,
        inputs.teacher_recovery(),
        inputs.identity(),
    )
    close_trackers(inputs.accelerator)
    path = settings.output / RESULT
    if inputs.accelerator.is_main_process:
        trained_model(inputs, evaluation, history).save(path)
        print(f"wrote {path}", flush=True)
    return path


def trained_model(inputs: JointInputs, evaluation: LossReduction, history: History) -> DiffLoRA:
    """Make a DiffLoRA of the trained networks, with the sampling settings that are best for validation people."""
    settings, lae, denoiser = inputs.settings, inputs.network.lae, inputs.network.denoiser
    best = max(metrics[evaluation.metric] for metrics in history.values())

    def evaluate(sampling: SamplingConfig) -> dict[str, float]:
        return {evaluation.metric: sampled_recovery(evaluation, lae, denoiser, inputs.references, sampling)}

    sampling, tried = choose_sampling(
        evaluate, lambda metrics: metrics[evaluation.metric], MIN_IMPROVEMENT * max(best, 0.0)
    )
    provenance = {
        "people": len(inputs.people),
        "validation_people": len(inputs.validation),
        "date": datetime.date.today().isoformat(),
        "joint_training": json.loads(json.dumps(asdict(settings.training))),
        "history": history,
        "sampling": tried,
    }
    config = DiffLoRAConfig(
        lae.config, denoiser.dit.config, denoiser.mif.config, settings.encoders, sampling, provenance
    )
    return assemble(lae, denoiser, config)


def dry_run(settings: JointSettings) -> Iterator[str]:
    """Describe sizes, then memory and measured speed of a step, with everything that the training needs."""
    training = settings.training
    yield (
        f"a step       {training.people} people, {settings.images_per_person} images of each, in a process"
        f"{f'; {training.teachers} of the LoRAs are teachers' if training.teachers else ''}\n"
        f"steps        {training.loop.steps:,}"
    )
    inputs = JointInputs.open(settings, trackers=False)
    frozen = {"U-Net": inputs.base.unet}
    yield str(measure_step(inputs.network, inputs.objective(), training.loop, training.people, frozen=frozen))


COMMAND = TrainerCommand(JointSettings, "training/recipes/*/*_train_teacher_free.yaml", dry_run, train)
add_arguments = COMMAND.add_arguments
