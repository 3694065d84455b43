"""The pipeline's settings: one YAML file per set-up, read into the dataclasses below.

Paths in a file are relative to the file's own folder. An unknown key is an error.
"""

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval, MultipleOf

from difflora_core.fields import Cosine, NonNegativeFloat, NonNegativeInt, PositiveInt, Seed, Share, check_fields
from training.dreambooth.config import DreamBoothConfig
from training.engine.config import check_warmup
from training.engine.settings import SettingsPath, Words, absolute_path, read_settings

ImageSize = Annotated[int, Interval(ge=64, le=4096), MultipleOf(8)]
"""Pixels of a side; the autoencoder's latents are an eighth of it."""
GuidanceScale = Annotated[float, Interval(ge=0, le=100)]
Degrees = Annotated[float, Interval(ge=0, le=180)]


@dataclass(frozen=True)
class FacesConfig:
    """The face models."""

    pack: Words = "buffalo_l"
    """InsightFace's model pack."""
    root: SettingsPath = Path("insightface")
    """Folder of packs: the models are in root/models/<pack>."""
    provider: str = "CPU"
    """onnxruntime's execution provider, without `ExecutionProvider`."""


@dataclass(frozen=True)
class CollectConfig:
    """Stage collect: which images there are, and whose."""

    source: Literal["images", "people", "datasets"] = "people"
    """`images`: a folder, each image a person. `people`: a folder per person. `datasets`: Hugging Face datasets."""
    path: str = ""
    """The folder; with `datasets` a local path or a name in the local cache."""
    image_column: str = "image"
    """With `datasets`, the column that holds the image, or a list of images of one person."""
    person_column: str = ""
    """With `datasets`, the column that names the person; empty: each row is a person."""
    min_face: NonNegativeInt = 64
    """Pixels of a face's shorter side."""
    same_person: Cosine = 0.6
    """Cosine from which two entries are one person."""
    action: Literal["merge", "drop"] = "merge"
    """What happens to the second of two entries that are one person."""
    same_image: Cosine = 0.995
    """Cosine from which two images of a person count once."""
    max_images: NonNegativeInt = 16
    """Per person, 0 for all."""
    max_people: NonNegativeInt = 0
    """0 for all."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class GenerateConfig:
    """Stage generate: PhotoMaker."""

    enabled: bool = True
    """Off: the collected images themselves are passed on."""
    file: SettingsPath = Path("photomaker-v1.bin")
    """PhotoMaker v1 in the official layout."""
    images: PositiveInt = 24
    """Per person."""
    prompts: SettingsPath | None = None
    """A file with a prompt per line; None for the project's own."""
    negative: SettingsPath | None = None
    """A file with the lines of the negative prompt; None for the project's own."""
    size: ImageSize = 1024
    """Pixels of a side."""
    steps: PositiveInt = 30
    """Of the sampler."""
    guidance_scale: GuidanceScale = 5.0
    """Of classifier-free guidance."""
    style_strength: Annotated[int, Interval(ge=0, lt=100)] = 20
    """Percentage of steps before the identity is merged in (delayed merging); with 100 it never would be."""
    references: PositiveInt = 4
    """Images of the person that are fused into the identity."""
    lcm_lora: SettingsPath | None = None
    """An LCM-LoRA for few steps."""
    batch: PositiveInt = 4
    """Images that are generated at once."""
    seed: Seed = 0
    """Of the noise, the same for all people."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class FilterConfig:
    """Stage filter: an image that fails one threshold is dropped."""

    min_face: NonNegativeInt = 128
    """Pixels of the face's shorter side."""
    min_sharpness: NonNegativeFloat = 40.0
    """Variance of the Laplacian of the 112-pixel face crop, in gray levels of 0 to 255."""
    min_similarity: Cosine = 0.35
    """Cosine with the person's face embedding."""
    max_yaw: Degrees = 50.0
    """Degrees to either side, estimated from five landmarks."""
    max_pitch: Degrees = 40.0
    """Degrees up or down, estimated from five landmarks."""
    same_image: Cosine = 0.995
    """Cosine above which an image repeats another that is more similar to the person."""
    min_images: PositiveInt = 8
    """A person with fewer images left is dropped."""
    several_faces: bool = True
    """Whether an image with more than one face is dropped."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PreprocessConfig:
    """Stage preprocess: latents and text embeddings."""

    size: ImageSize = 1024
    """Pixels of the square training image."""
    margin: NonNegativeFloat = 0.0
    """Of the crop around the face, in face sizes; 0 takes the image's center square."""
    class_word: Words = "person"
    """Of captions."""
    max_images: NonNegativeInt = 0
    """Per person, those most similar to the person first; 0 for all."""
    held_out: NonNegativeInt = 2
    """So many of these images are kept from training, for verify and validation; 0 for none."""
    batch: PositiveInt = 4
    """Images that are encoded at once."""

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.max_images <= self.held_out:
            raise ValueError(
                f"max_images is {self.max_images}, of which held_out keeps {self.held_out}: none is left to train on"
            )


@dataclass(frozen=True)
class PackConfig:
    """Stage pack: the store."""

    validation: Share = 0.03
    """Share of people, chosen by a hash of the name."""
    test: Share = 0.03
    """Share of people, chosen by a hash of the name."""
    canonical: bool = False
    """Store the canonical form of every LoRA instead of the raw factors."""
    people_per_shard: PositiveInt = 64
    """A shard is a file."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.validation + self.test > 1:
            raise ValueError(
                f"validation and test are shares of all people, found {self.validation:g} and {self.test:g}, more than "
                "1 together"
            )


@dataclass(frozen=True)
class VerifyConfig:
    """Stage verify: some teachers are tested in the base model."""

    people: PositiveInt = 8
    """How many teachers are tested."""
    images: PositiveInt = 4
    """Generated with each teacher, and without."""
    steps: PositiveInt = 30
    """Of the sampler."""
    guidance_scale: GuidanceScale = 5.0
    """Of classifier-free guidance."""
    seed: Seed = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DatasetConfig:
    """All stages."""

    workspace: SettingsPath
    """Folder of everything that stages write."""
    base: SettingsPath
    """The base model: SDXL as a diffusers folder."""
    faces: FacesConfig = field(default_factory=FacesConfig)
    """The face models."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    """Stage collect."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    """Stage generate."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Stage filter."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    """Stage preprocess."""
    dreambooth: DreamBoothConfig = field(default_factory=DreamBoothConfig)
    """Stage dreambooth."""
    pack: PackConfig = field(default_factory=PackConfig)
    """Stage pack."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """Stage verify."""

    def stage(self, name: str) -> Path:
        """Return the folder of a stage."""
        return self.workspace / name

    @property
    def store(self) -> Path:
        """Folder of the store of LoRAs."""
        return self.stage("store")

    def embeddings(self, image_encoder: Path) -> Path:
        """Return the folder of embeddings by the face pack and this image encoder: every pair has its own."""
        return self.stage("embeddings") / f"{self.faces.pack}+{image_encoder.name}"


def _check_sections(config: DatasetConfig) -> None:
    """Check what several settings say together.

    Raises:
        ValueError: The filter would drop every image or everybody, nobody has an image to train on for sure, or a
            teacher's learning rate would not reach its peak.
    """
    needed, held_out = config.filter.min_images, config.preprocess.held_out
    name, images = (
        ("generate.images", config.generate.images)
        if config.generate.enabled
        else ("collect.max_images", config.collect.max_images)
    )
    if 0 < images < needed:
        raise ValueError(f"{name} is {images}, of which filter.min_images needs {needed}: everybody would be dropped")
    if config.generate.enabled and config.filter.min_face > config.generate.size:
        raise ValueError(
            f"filter.min_face is {config.filter.min_face}, but the images that are generated have only "
            f"{config.generate.size} pixels of a side (generate.size): every image would be dropped. Lower min_face"
        )
    if needed <= held_out:
        raise ValueError(
            f"filter.min_images is {needed}, and preprocess.held_out keeps {held_out} of them from training: people "
            f"with so few would have no image to train on. Set min_images to {held_out + 1} or more"
        )
    try:
        check_warmup(config.dreambooth.warmup, config.dreambooth.steps)
    except ValueError as error:
        raise ValueError(f"dreambooth: {error}") from error


def load_config(path: str | Path) -> DatasetConfig:
    """Read a YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, a key is unknown, a value has another type than the field, the sections don't
            fit together, or the stages would write among the images that are collected.
    """
    path = Path(path)
    config = read_settings(DatasetConfig, path)
    try:
        _check_sections(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not config.collect.path:
        return config
    # The only path that may also be a name, of a data set in the local cache
    try:
        source = absolute_path(Path(config.collect.path), path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: collect.path: {error}") from error
    if config.collect.source == "datasets" and not os.path.exists(source):  # Path.exists fails for long names
        return config
    config = replace(config, collect=replace(config.collect, path=str(source)))
    stages = [config.stage(entry.name) for entry in fields(DatasetConfig)]
    if config.workspace.is_relative_to(source) or any(source.is_relative_to(stage) for stage in stages):
        raise ValueError(
            f"{path}: the stages write into workspace, {config.workspace}, and collect.path is {source}: what they "
            "write would be collected as people, or lie over the images. Choose a workspace outside that folder"
        )
    return config
