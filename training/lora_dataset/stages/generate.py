"""Stage generate: PhotoMaker generates varied images of each person, or the collected images are passed on.

    generate/<person>/NNN.png, generate/<person>.json: {"images": [{"file", "caption"}], "references": […]}

Prompts and seeds are the same for all people: images of two people then differ by the person and not by chance, and so
do the LoRAs that are trained on them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.images import write_image
from difflora_core.seeds import derive_seed
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base
from training.lora_dataset.fingerprints import (
    Fingerprint,
    hash_face_models,
    hash_file,
    hash_files,
    hash_value,
    settings_of,
)
from training.lora_dataset.images.faces import open_faces, person_embedding
from training.lora_dataset.images.folder_writing import replacing_folder
from training.lora_dataset.images.reference_crops import choose_references
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling
from training.lora_dataset.prompt_files import read_negative, read_prompts
from training.lora_dataset.stage import Stage, Worker, done_before

OWN_SETTINGS = ("enabled", "images", "size", "steps", "guidance_scale", "style_strength", "references", "seed")
"""Settings of this stage that its images depend on, beside the contents of files."""


class Generate(Stage):
    """The stage. An item is a person."""

    name = "generate"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the people who were collected.

        Raises:
            ValueError: There are none.
        """
        return done_before(config, "collect")

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a person: images, mean face, prompts, models and settings; without PhotoMaker images' names and captions.

        Raises:
            FileNotFoundError: A model or a file of prompts is missing.
        """
        if not config.generate.enabled:
            off = settings_of(config, "generate.enabled")
            return lambda person: {"captions": hash_value(pass_on(config, person).facts), **off}
        names = [f"generate.{name}" for name in OWN_SETTINGS]
        prompts = read_prompts(config.generate, config.preprocess.class_word), read_negative(config.generate)
        files = [path for path in (config.generate.file, config.generate.lcm_lora) if path is not None]
        common = {
            **settings_of(config, *names, "preprocess.class_word"),
            "prompts": hash_value(prompts),
            "PhotoMaker files": hash_value([hash_file(path) for path in files]),
            "base model": hash_base(config, "unet", "vae", "text_encoder", "text_encoder_2"),
            "face models": hash_face_models(config.faces),
        }

        def fingerprint(person: str) -> Fingerprint:
            folder = config.stage("collect") / person
            names = [*collected_images(config, person), "face.npy"]
            return {"images": hash_files([folder / name for name in names]), **common}

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model, PhotoMaker and the face models, unless the stage is off."""
        if not config.generate.enabled:
            return lambda person: pass_on(config, person)
        return ImageGenerator.open(config, device).generate


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
        """Generate a person's images into generate/<person>/."""
        paths = [self.config.stage("collect") / person / name for name in collected_images(self.config, person)]
        mean = torch.from_numpy(person_embedding(self.config, person))
        references = choose_references(paths, self.encoder, mean, self.config.generate.references)
        identity = self.pipeline.identity([crop for _, crop in references])
        count, batch = self.config.generate.images, max(1, self.config.generate.batch)
        images = []
        with replacing_folder(self.config.stage("generate") / person) as folder:
            for start in range(0, count, batch):
                captions = self._generate_batch(folder, identity, range(start, min(count, start + batch)))
                images += [
                    {"file": f"generate/{person}/{name}", "caption": caption} for name, caption in captions.items()
                ]
        return Record(person, facts={"images": images, "references": [path.name for path, _ in references]})

    def _generate_batch(self, folder: Path, identity: Tensor, numbers: range) -> dict[str, str]:
        """Generate the images with these numbers and write them to a folder; captions by file name."""
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
        names = [f"{number:03d}.png" for number in numbers]
        for name, image in zip(names, images, strict=True):
            write_image(folder / name, image)
        return dict(zip(names, captions, strict=True))


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
