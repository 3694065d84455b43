"""The dataset's training images and base model, for losses that go through the base model."""

from collections.abc import Sequence
from typing import Any, overload

import torch

from difflora_core.command_line import progress
from difflora_core.lora.layout import LoRALayout
from training.base_model.diffusion_loss import predictor
from training.base_model.interface import BaseModel
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base, open_configured_base
from training.lora_dataset.fingerprints import hash_value, settings_of
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stages.preprocess import PreparedImages, chosen_images, read_prepared, read_texts
from training.store.shard import Person


class DatasetImages(Sequence[PersonImages]):
    """Images of people, in the order of `people`, read when they are needed: a thousand people's latents fill a memory.

    Of each person those that the teacher was trained on, or, with `held_out`, those that it was not.
    """

    def __init__(self, config: DatasetConfig, people: Sequence[Person], held_out: bool = False) -> None:
        """Read all people's captions.

        Args:
            config: Of the dataset.
            people: Whose images.
            held_out: Whether to take the images that were kept from training.

        Raises:
            ValueError: People have no preprocessed images, or none were held out.
        """
        self.config, self.people, self.held_out = config, [str(person) for person in people], held_out
        missing = sorted(set(self.people) - set(Manifest(config.stage("preprocess")).done()))
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.people)} people have no preprocessed images in {config.workspace}, the "
                f"first is {missing[0]}: run `python -m training dataset preprocess` for the same people."
            )
        if held_out and config.preprocess.held_out < 1:
            raise ValueError(f"{config.workspace} holds no held-out images: preprocess.held_out is 0.")
        read = progress(self.people, "captions", "person")
        self.captions = sorted({caption for person in read for caption in self._prepared(person).captions})
        self._rows = {caption: row for row, caption in enumerate(self.captions)}

    def __len__(self) -> int:
        return len(self.people)

    @overload
    def __getitem__(self, index: int) -> PersonImages: ...
    @overload
    def __getitem__(self, index: slice) -> list[PersonImages]: ...
    def __getitem__(self, index: int | slice) -> PersonImages | list[PersonImages]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        person = self.people[index]
        own = self._prepared(person)
        text_rows = torch.tensor([self._rows[caption] for caption in own.captions])
        if self.held_out:  # positions in the list of prompts only matter where people are compared
            return PersonImages.complete(person, own.latents, text_rows)
        return PersonImages(person, own.latents, text_rows, torch.tensor(own.positions), own.prompt_count)

    def _prepared(self, person: str) -> PreparedImages:
        return read_prepared(self.config, person).split(self.config.preprocess.held_out)[self.held_out]


def held_out_files(config: DatasetConfig, people: Sequence[Person]) -> dict[str, set[str]]:
    """Return which files are held-out images, by person: a loss is measured on them, so that no reference may be one.

    People without records of the stages before `preprocess`, which may be deleted, are left out.
    """
    count, found = config.preprocess.held_out, {}
    stages = [Manifest(config.stage(name)) for name in ("filter", "generate")]
    for person in map(str, people):
        if all((record := stage.read(person)) is not None and record.status == "done" for stage in stages):
            chosen = chosen_images(config, person)[0]
            found[person] = {image["file"] for image in chosen[max(0, len(chosen) - count) :]}
    return found


def open_base_model(config: DatasetConfig, layout: LoRALayout, device: str) -> BaseModel:
    """Load the dataset's base model, of which only the U-Net is on the device: captions are encoded already.

    Raises:
        ValueError: The LoRAs are of another base model.
    """
    base = open_configured_base(config, device, unet_alone=True)
    feed_forward = any(not layout.base.is_target(name, feed_forward=False) for name in layout.names)
    if (difference := layout.difference(base.layout(layout.rank, feed_forward))) is not None:
        raise ValueError(f"{config.base} does not fit the LoRAs: {difference}.")
    return base


def image_identity(config: DatasetConfig, people: Sequence[Person]) -> dict[str, Any]:
    """Return what a run through the base model can't be resumed without: its U-Net, and people's images as prepared."""
    preprocess = Manifest(config.stage("preprocess"))
    records = [preprocess.read(str(person)) for person in people]
    made_from = [record and [record.inputs.get(name) for name in ("images", "captions")] for record in records]
    return {
        "base model": hash_base(config, "unet"),
        **settings_of(config, "preprocess.size", "preprocess.held_out"),
        "images (hash)": hash_value(made_from),
    }


def dataset_loss(
    base: BaseModel,
    layout: LoRALayout,
    images: DatasetImages,
    images_per_person: int,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> LoRADiffusionLoss:
    """Make the diffusion loss on a dataset's images.

    Args:
        base: The frozen base model.
        layout: Of the LoRAs.
        images: Of people.
        images_per_person: Images of each person in a step.
        seed: Of images, timesteps and noise.
        gradient_checkpointing: See `LoRADiffusionLoss`.
    """
    predict = predictor(base, read_texts(images.config, images.captions), images.config.preprocess.size)
    return LoRADiffusionLoss(
        base.unet, layout, predict, base.scheduler(), images_per_person, seed, gradient_checkpointing
    )
