"""Stage dreambooth: a LoRA per person, many people in one batch over one frozen U-Net.

dreambooth/<group>.safetensors      loras (people, numel) float32, loss (people,); metadata: whose they are
"""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from typing import Any, Self

import torch
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout
from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.interface import BaseModel
from training.base_model.person_images import PersonImages
from training.dreambooth.config import NO_EFFECT
from training.dreambooth.train import shared_start, train_loras
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base, open_configured_base
from training.lora_dataset.fingerprints import Fingerprint, hash_file, hash_tensor, settings_of
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before

from .preprocess import PreparedImages, ensure_text, prepared_path, read_prepared, read_texts

PRIOR_IMAGES, PRIOR_STEPS, PRIOR_GUIDANCE_SCALE = 8, 30, 5.0
"""Of prior preservation: images that the base model generates of the class word alone; our choice."""


@dataclass(frozen=True)
class ClassImages:
    """Images of prior preservation, with one caption."""

    latents: Tensor
    """Scaled latents (n, channels, h, w)."""
    caption: str
    """Of all of them."""


class DreamBooth(Stage):
    """The stage. An item is a group of people, named after its first."""

    name = "dreambooth"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the groups, done or not.

        Raises:
            ValueError: There is nobody to train on.
        """
        done_before(config, "preprocess")
        return list(groups(config))

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a group: everybody's latents and captions, the base model, and the settings of training."""
        people = groups(config)
        return lambda item: group_fingerprint(config, item, people[item])

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model, and generate class images where the prior is preserved."""
        teacher, people = Teacher.open(config, device), groups(config)
        return lambda item: _train_group(teacher, item, people[item])


DREAMBOOTH = DreamBooth()


def groups(config: DatasetConfig) -> dict[str, list[str]]:
    """Return who is trained together, by group. Finished groups keep their people; new people make new groups.

    A person who was left out of a finished group, for a reason in its record, stays in it: when the images are others,
    the group is trained again.
    """
    records = [record for record in Manifest(config.stage(DREAMBOOTH.name)).records() if record.status == "done"]
    done = {record.item: [*record.facts["people"], *record.facts.get("left_out", {})] for record in records}
    taken = {person for people in done.values() for person in people}
    left = [person for person in Manifest(config.stage("preprocess")).done() if person not in taken]
    size = config.dreambooth.people
    for start in range(0, len(left), size):
        done[_group_name(left[start], done)] = left[start : start + size]
    return done


def _group_name(first: str, others: Container[str]) -> str:
    """Name a group after its first person, who may have headed another group before."""
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return next(name for name in names if name not in others)


def group_fingerprint(config: DatasetConfig, item: str, people: Sequence[str]) -> Fingerprint:
    """Compute a group's fingerprint. Of people whom the stage before does not have any more, the record's is taken.

    Raises:
        FileNotFoundError: Latents that the group was trained on are missing.
    """
    record, present = Manifest(config.stage(DREAMBOOTH.name)).read(item), _present(config, people)
    known = record.inputs if record and record.status == "done" else {}
    images: dict[str, Any] = {}
    for person in people:
        key, path = f"images of {person}", prepared_path(config, person)
        if person in present:
            images[key] = hash_file(path) if path.exists() or known.get(key) else None
        elif key in known:
            images[key] = known[key]
    return {**images, **training_fingerprint(config)}


def training_fingerprint(config: DatasetConfig) -> Fingerprint:
    """Return what LoRAs depend on beside images: the settings of training, and the base model."""
    names = [entry.name for entry in fields(config.dreambooth) if entry.name not in NO_EFFECT]
    settings = [f"dreambooth.{name}" for name in names] + ["preprocess.held_out"]
    if config.dreambooth.prior_weight:
        settings.append("preprocess.class_word")
    base = {"base model": hash_base(config, "unet", "text_encoder", "text_encoder_2")}
    return {**settings_of(config, *settings), **base}


def _present(config: DatasetConfig, people: Sequence[str]) -> list[str]:
    """Return those whom the stage before has. Only their records are read: of thousands of people this takes long."""
    records = map(Manifest(config.stage("preprocess")).read, people)
    return [record.item for record in records if record is not None and record.status == "done"]


def _train_group(teacher: "Teacher", item: str, people: Sequence[str]) -> Record:
    """Train one group and write its LoRAs.

    Raises:
        ValueError: Nobody's images can be read, or nobody's LoRA is finite.
    """
    config = teacher.config
    people = _present(config, people)
    inputs = group_fingerprint(config, item, people)
    images, left_out = read_training_images(config, people)
    if not images:
        raise ValueError(next(iter(left_out.values()), "nobody of the group is left"))
    loras, losses = teacher.train(images)
    finite = loras.isfinite().all(1).cpu()
    left_out |= {
        name: "training ended in NaN; lower dreambooth.learning_rate"
        for name, good in zip(images, finite.tolist(), strict=True)
        if not good
    }
    trained = [name for name in images if name not in left_out]
    if not trained:
        raise ValueError(next(iter(left_out.values())))
    tensors = {"loras": loras.cpu()[finite].contiguous(), "loss": losses.cpu()[finite].contiguous()}
    provenance = {"settings": asdict(config.dreambooth), "size": config.preprocess.size}
    metadata = {"people": json.dumps(trained), "provenance": json.dumps(provenance)}
    write_tensors(config.stage(DREAMBOOTH.name) / f"{item}.safetensors", tensors, metadata)
    reason = "; ".join(f"without {name}: {why}" for name, why in left_out.items())
    loss = [round(value, 5) for value in tensors["loss"].tolist()]
    digests = [hash_tensor(lora) for lora in tensors["loras"]]
    facts = {"people": trained, "left_out": left_out, "loss": loss, "loras": digests}
    return Record(item, reason=reason, facts=facts, inputs=inputs)


def read_training_images(
    config: DatasetConfig, people: Sequence[str]
) -> tuple[dict[str, PreparedImages], dict[str, str]]:
    """Read the images to train on, by person, and why some people have none: one bad file must not cost a group."""
    images, left_out = {}, {}
    for person in people:
        try:
            images[person] = read_prepared(config, person).split(config.preprocess.held_out)[0]
        except (ValueError, OSError, KeyError) as error:
            left_out[person] = f"{type(error).__name__}: {error}"
    return images, left_out


@dataclass(frozen=True)
class Teacher:
    """What trains one group of people after another."""

    config: DatasetConfig
    """Of the pipeline."""
    base: BaseModel
    """The frozen base model."""
    layout: LoRALayout
    """Of the LoRAs."""
    start: Tensor
    """LoRA (numel,) from which all people start."""
    prior: ClassImages | None
    """For prior preservation."""

    @classmethod
    def open(cls, config: DatasetConfig, device: str) -> Self:
        """Load the base model, and generate the class images that the settings ask for."""
        return cls.on(config, open_configured_base(config, device))

    @classmethod
    def on(cls, config: DatasetConfig, base: BaseModel) -> Self:
        """Make a teacher on a base model that is loaded."""
        layout = base.layout(config.dreambooth.rank, config.dreambooth.feed_forward)
        prior = generate_class_images(config, base) if config.dreambooth.prior_weight else None
        return cls(config, base, layout, shared_start(layout).to(base.device), prior)

    def train(
        self, people: Mapping[str, PreparedImages], on_step: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Train LoRAs (people, numel) on people's images; they and the last losses (people,) are returned.

        Args:
            people: Their images to train on, by name.
            on_step: Called after each step with the number of steps done.
        """
        settings = self.config.dreambooth
        captions = {caption for own in people.values() for caption in own.captions}
        if self.prior:
            captions.add(self.prior.caption)
        rows = {caption: row for row, caption in enumerate(sorted(captions))}
        predict = predictor(self.base, read_texts(self.config, list(rows)), self.config.preprocess.size)
        loss = DiffusionLoss(
            predict,
            self.base.scheduler(),
            [self._person_images(name, own, rows) for name, own in people.items()],
            settings.images_per_person,
            settings.seed,
            settings.shared_noise,
            settings.min_snr_gamma,
            settings.prior_weight,
            self._class_images(rows),
        )
        return train_loras(self.base.unet, self.layout, self.start, len(people), loss, settings, on_step)

    def _person_images(self, name: str, own: PreparedImages, rows: Mapping[str, int]) -> PersonImages:
        text_rows = torch.tensor([rows[caption] for caption in own.captions])
        latents = own.latents.to(self.base.device)
        return PersonImages(name, latents, text_rows, torch.tensor(own.positions), own.prompt_count)

    def _class_images(self, rows: Mapping[str, int]) -> PersonImages | None:
        if self.prior is None:
            return None
        text_rows = torch.full((len(self.prior.latents),), rows[self.prior.caption])
        return PersonImages.complete("class", self.prior.latents.to(self.base.device), text_rows)


def generate_class_images(config: DatasetConfig, base: BaseModel) -> ClassImages:
    """Generate images of the class word alone with the base model."""
    caption = f"a portrait of a {config.preprocess.class_word}"
    ensure_text(config, base, caption)
    images = base.generate(
        [caption] * PRIOR_IMAGES,
        config.preprocess.size,
        PRIOR_STEPS,
        PRIOR_GUIDANCE_SCALE,
        config.dreambooth.seed,
        config.preprocess.batch,
    )
    latents = [base.encode_images(part) for part in images.split(config.preprocess.batch)]  # in float32: much memory
    return ClassImages(torch.cat(latents), caption)
