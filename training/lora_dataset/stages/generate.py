"""Stage generate: PhotoMaker generates varied images of each person, or the collected images are passed on.

    generate/<person>/NNN.png, generate/<person>.json: {"images": [{"file", "caption"}], "references": […]}

Prompts and seeds are the same for all people: images of two people then differ by the person and not by chance, and so
do the LoRAs that are trained on them.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.images import write_image
from difflora_core.seeds import derive_seed
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.images.faces import open_faces, person_embedding
from training.lora_dataset.images.reference_crops import choose_references
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling
from training.lora_dataset.prompt_files import read_negative, read_prompts
from training.lora_dataset.stage import Worker


class Generate:
    """The stage. An item is a person."""

    name = "generate"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the people who were collected."""
        return Manifest(config.stage("collect")).done()

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model, PhotoMaker and the face models, unless the stage is off."""
        if not config.generate.enabled:
            return lambda person: pass_on(config, person)
        return ImageGenerator.open(config, device).generate

    def finish(self, config: DatasetConfig) -> None:
        """Do nothing: people don't depend on each other."""


GENERATE = Generate()


@dataclass(frozen=True)
class ImageGenerator:
    """What generates one person's images after another."""

    config: DatasetConfig
    """Of the pipeline."""
    pipeline: PhotoMakerPipeline
    """PhotoMaker on the base model."""
    encoder: FaceEncoder
    """Of the reference images' faces."""
    prompts: Sequence[str]
    """Taken in turn."""
    negative: str
    """The negative prompt."""

    @classmethod
    def open(cls, config: DatasetConfig, device: str) -> Self:
        """Load everything.

        Raises:
            FileNotFoundError: A model or a file of prompts is missing.
            ValueError: A model is another, or PhotoMaker cannot use a prompt.
        """
        settings, class_word = config.generate, config.preprocess.class_word
        prompts, negative, encoder = (
            read_prompts(settings, class_word),
            read_negative(settings),
            open_faces(config.faces),
        )
        pipeline = PhotoMakerPipeline.open(config.base, settings.file, device, settings.lcm_lora)
        pipeline.tokens(prompts, class_word, settings.references)  # a bad prompt fails here, once
        return cls(config, pipeline, encoder, prompts, negative)

    def generate(self, person: str) -> Record:
        """Generate a person's images into generate/<person>/, replacing what an interrupted run left there."""
        paths = [self.config.stage("collect") / person / name for name in collected_images(self.config, person)]
        mean = torch.from_numpy(person_embedding(self.config, person))
        references = choose_references(paths, self.encoder, mean, self.config.generate.references)
        identity = self.pipeline.identity([crop for _, crop in references])
        folder = self.config.stage("generate") / person
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        count, batch = self.config.generate.images, max(1, self.config.generate.batch)
        images = []
        for start in range(0, count, batch):
            images += self._generate_batch(person, identity, range(start, min(count, start + batch)))
        return Record(person, facts={"images": images, "references": [path.name for path, _ in references]})

    def _generate_batch(self, person: str, identity: Tensor, numbers: range) -> list[dict[str, str]]:
        """Generate and write the images with these numbers; files and captions."""
        settings = self.config.generate
        captions = [self.prompts[number % len(self.prompts)] for number in numbers]
        images = self.pipeline.generate(
            captions,
            self.negative,
            self.config.preprocess.class_word,
            identity,
            [derive_seed(settings.seed, "generate", number) for number in numbers],
            Sampling(settings.size, settings.steps, settings.guidance_scale, settings.style_strength),
        )
        entries = []
        for number, caption, image in zip(numbers, captions, images, strict=True):
            file = f"generate/{person}/{number:03d}.png"
            write_image(self.config.workspace / file, image)
            entries.append({"file": file, "caption": caption})
        return entries


def pass_on(config: DatasetConfig, person: str) -> Record:
    """Record the collected images as if they were generated, with the captions beside them."""
    default = f"a portrait of a {config.preprocess.class_word}"
    entries = []
    for name in collected_images(config, person):
        sidecar = (config.stage("collect") / person / name).with_suffix(".txt")
        caption = sidecar.read_text(encoding="utf-8", errors="replace").strip() if sidecar.is_file() else ""
        entries.append({"file": f"collect/{person}/{name}", "caption": " ".join(caption.split()) or default})
    return Record(person, facts={"images": entries})


def collected_images(config: DatasetConfig, person: str) -> list[str]:
    """Return the file names of a person's collected images.

    Raises:
        ValueError: There are none.
    """
    record = Manifest(config.stage("collect")).read(person)
    names = list(record.facts.get("images", [])) if record else []
    if not names:
        raise ValueError(f"{person} has no collected images: run the stage collect first")
    return names
