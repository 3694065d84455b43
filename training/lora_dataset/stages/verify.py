"""Stage verify: some teachers are loaded into the U-Net again and tested.

verify/report/report.json      per person and on average: similarity with the LoRA and without, loss with it and without
verify/report/sheet.png        a person's own image, images without the LoRA, images with it
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Self

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.images import write_image
from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.held_out_loss import mean_loss
from training.base_model.interface import BaseModel
from training.base_model.person_images import PersonImages
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base, open_configured_base
from training.lora_dataset.fingerprints import Fingerprint, hash_face_models, hash_file, hash_value, settings_of
from training.lora_dataset.images.faces import open_faces, person_embedding
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before
from training.store.lora_store import Entry, LoRAStore

from .preprocess import PreparedImages, prepared_path, read_prepared, read_texts
from .verify_report import image_strip, write_report

IMAGES_PER_BATCH = 16
"""Noisy images in each batch of the loss."""
LOSS_SEED = 77
"""Of the loss: noise on which no teacher was trained."""


class Verify(Stage):
    """The stage. An item is a person."""

    name = "verify"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return people of the store who were trained here, evenly spread over its order.

        Raises:
            FileNotFoundError: There is no store.
            ValueError: The store has nobody who was trained here.
        """
        trained = set(done_before(config, "preprocess"))
        store = LoRAStore.open(config.workspace / "store")
        people = [str(entry.person) for entry in store.entries() if str(entry.person) in trained]
        if not people:
            raise ValueError(f"{store.folder} has nobody who was trained here: run the stage `pack` first")
        count = min(config.verify.people, len(people))
        return [people[i * len(people) // count] for i in range(count)]

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a person: the LoRA, latents and captions, the reference image, the models and settings of the test."""
        store = LoRAStore.open(config.workspace / "store")
        loras = {str(entry.person): entry.provenance.get("lora", "") for entry in store.entries()}
        own = (f"verify.{entry.name}" for entry in fields(config.verify) if entry.name != "people")
        common = settings_of(config, *own, "preprocess.held_out", "dreambooth.dtype")
        common["base model"] = hash_base(config, "unet", "vae", "text_encoder", "text_encoder_2")
        common["face models"] = hash_face_models(config.faces)

        def fingerprint(person: str) -> Fingerprint:
            face = config.stage("collect") / person / "face.npy"
            paths = [prepared_path(config, person), face, _reference_path(config, person)]
            images = [hash_file(path) for path in paths]
            return {"LoRA": loras[person], "images": hash_value(images), **common}

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model and the face models, and read the store's index."""
        return Examiner.open(config, device).examine

    def finish(self, config: DatasetConfig) -> None:
        """Write the report and the sheet of images from all records."""
        records = [record for record in Manifest(config.stage(self.name)).records() if record.status == "done"]
        if records:
            write_report(config.stage(self.name) / "report", records)


VERIFY = Verify()


@dataclass(frozen=True)
class Examination:
    """What the base model does with a person's LoRA, or without."""

    images: Tensor
    """Generated images (n, 3, size, size) in [0, 1]."""
    similarity: float
    """Mean cosine of their faces with the person; 0 for an image without a face."""
    loss: float
    """Diffusion loss on the person's images."""


@dataclass(frozen=True)
class Examiner:
    """What tests one person's LoRA after another."""

    config: DatasetConfig
    """Of the pipeline."""
    base: BaseModel
    """The base model."""
    encoder: FaceEncoder
    """Of generated faces."""
    store: LoRAStore
    """With the LoRAs."""
    entries: dict[str, Entry]
    """Of the store, by person."""

    @classmethod
    def open(cls, config: DatasetConfig, device: str) -> Self:
        """Load everything."""
        store = LoRAStore.open(config.workspace / "store")
        entries = {str(entry.person): entry for entry in store.entries()}
        return cls(config, open_configured_base(config, device), open_faces(config.faces), store, entries)

    def examine(self, person: str) -> Record:
        """Generate images with a person's LoRA and without, and measure both."""
        with safe_open(self.entries[person].shard, "pt") as file:
            lora = file.get_slice("loras")[self.entries[person].row]
        without = self._examine(person)
        with self.base.loaded_lora(lora, self.store.layout):
            own = self._examine(person)
        reference = Image.open(_reference_path(self.config, person)).convert("RGB")
        title = f"{person}: {without.similarity:.2f} without, {own.similarity:.2f} with the LoRA"
        strip = image_strip(title, [reference, *_to_pillow(without.images[:2]), *_to_pillow(own.images)])
        write_image(self.config.stage(VERIFY.name) / "report" / f"{person}.png", strip)
        facts = {
            "similarity": own.similarity,
            "similarity_without": without.similarity,
            "loss": own.loss,
            "loss_without": without.loss,
        }
        return Record(person, facts=facts)

    def _examine(self, person: str) -> Examination:
        """Generate and measure with the base model as it is.

        The loss is taken on the images that were kept from training. Where none were, on the person's others, with
        noise that training has not seen: that tells whether the LoRA arrived in the U-Net, not whether it generalizes.
        """
        settings = self.config.verify
        trained, held_out = read_prepared(self.config, person).split(self.config.preprocess.held_out)
        captions = [trained.captions[i % len(trained.captions)] for i in range(settings.images)]
        images = self.base.generate(
            captions, self.config.preprocess.size, settings.steps, settings.guidance_scale, settings.seed
        )
        loss = self._loss(person, held_out if held_out.captions else trained)
        return Examination(images, self._similarity(person, images), loss)

    def _similarity(self, person: str, images: Tensor) -> float:
        known, cosines = person_embedding(self.config, person), []
        for number, image in enumerate(_to_pillow(images), start=1):
            try:
                embedding = self.encoder.find(np.asarray(image), f"image {number}").embedding.numpy()
                cosines.append(float(known @ embedding / np.linalg.norm(embedding)))
            except NoFaceError:
                cosines.append(0.0)
        return fmean(cosines)

    def _loss(self, person: str, images: PreparedImages) -> float:
        texts = read_texts(self.config, images.captions)
        own = PersonImages.complete(person, images.latents.to(self.base.device), torch.arange(len(images.captions)))
        predict = predictor(self.base, texts, self.config.preprocess.size)
        return float(mean_loss(DiffusionLoss(predict, self.base.scheduler(), [own], IMAGES_PER_BATCH, LOSS_SEED))[0])


def _reference_path(config: DatasetConfig, person: str) -> Path:
    """The person's image that is most similar to the person."""
    source = Manifest(config.stage("filter")).read(person)
    assert source is not None
    return config.workspace / str(source.facts["kept"][0]["file"])


def _to_pillow(images: Tensor) -> list[Image.Image]:
    pixels = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in pixels]
