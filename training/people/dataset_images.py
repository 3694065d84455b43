"""The pipeline's pictures and base model, for training through pictures (`picture_stage`)."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from difflora_core.lora.layout import LoRALayout
from training.base_model.diffusion_loss import PersonImages
from training.base_model.lora_loss import LoRADiffusionLoss
from training.base_model.sdxl import DTYPES, SDXLBase
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stages.preprocess import Prepared, read_prepared, read_texts
from training.store.lora_store import Person


class DatasetImages(Sequence[PersonImages]):
    """Albums in the order of `people`, read when they are asked for: a thousand people's latents fill a memory.

    Of each person the pictures that a teacher is trained on, or, with held_out, those that it is not.
    """

    def __init__(self, config: DatasetConfig, people: Sequence[Person], held_out: bool = False) -> None:
        """Look at everybody's captions.

        Raises:
            ValueError: people have no pictures that preprocess left, or none were held out.
        """
        self.config, self.people, self.held_out = config, [str(person) for person in people], held_out
        missing = sorted(set(self.people) - set(Manifest(config.stage("preprocess")).done()))
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.people)} people have no prepared pictures in {config.workspace}, the "
                f"first is {missing[0]}: run `python -m training dataset preprocess` for the same people."
            )
        if held_out and config.preprocess.held_out < 1:
            raise ValueError(f"{config.workspace} keeps no pictures from training: preprocess.held_out is 0.")
        self.captions = sorted({caption for person in self.people for caption in self._pictures(person).captions})
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
        own = self._pictures(person)
        texts = torch.tensor([self._rows[caption] for caption in own.captions])
        if self.held_out:  # their places among the prompts mean nothing where nobody is compared
            return PersonImages.whole(person, own.latents, texts)
        return PersonImages(person, own.latents, texts, torch.tensor(own.places), own.of)

    def _pictures(self, person: str) -> Prepared:
        return read_prepared(self.config, person).split(self.config.preprocess.held_out)[self.held_out]


def open_base(config: DatasetConfig, layout: LoRALayout, device: str) -> SDXLBase:
    """The pipeline's base model. Raises ValueError if the LoRAs are of another one."""
    base = SDXLBase.open(config.base, device, DTYPES[config.dreambooth.dtype])
    feed_forward = any(".ff." in name for name in layout.names)
    if (unfit := layout.difference(base.layout(layout.rank, feed_forward))) is not None:
        raise ValueError(f"{config.base} does not fit the LoRAs: {unfit}.")
    return base


def dataset_loss(
    base: SDXLBase, layout: LoRALayout, albums: DatasetImages, rows: int, seed: int = 0
) -> LoRADiffusionLoss:
    """The loss through the base model on these albums. rows: pictures of each person in a step."""
    config = albums.config
    context, pooled = (table.to(base.device, base.dtype) for table in read_texts(config, albums.captions))

    def predict(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        return base.predict(noisy, timesteps, context[texts], pooled[texts], config.preprocess.size)

    return LoRADiffusionLoss(base.unet, layout, predict, base.scheduler(), rows, seed)
