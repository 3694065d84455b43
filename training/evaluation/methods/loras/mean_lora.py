"""The mean of the training people's LoRAs: how far a LoRA of nobody in particular comes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from difflora_core.files import read_shapes
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.lora import LoRA
from difflora_core.lora.tensor_names import parse
from training.base_model.interface import BaseModel
from training.lora_dataset.fingerprints import Fingerprint, hash_files
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk, in_batches

from ...people_folders import EvaluatedPerson
from ..made_files import Made
from ..method import ImageRequest, MadeImage
from ..no_lora import ReadyOnce
from ..shared_base import SharedBase
from .given_loras import size_of
from .made_loras import MadeLoRAs, made_lora
from .store_fingerprint import store_fingerprint


class MeanLoRA(MadeLoRAs):
    """One LoRA for all people, whose images are generated once in a run."""

    def __init__(self, base: SharedBase, place: Path, subject: str, folder: Path) -> None:
        """Name the LoRAs.

        Args:
            base: The shared base model.
            place: A store, or a folder of LoRA files.
            subject: In place of {person}.
            folder: For mean.safetensors.
        """
        super().__init__(base, subject, folder)
        self.place, self.references = place, None
        self.placement = (
            f'"{subject}" in place of {{person}}; mean of the LoRAs in {place.name}, factor by factor, at strength 1; '
            "the same images for all people"
        )
        self._made: dict[ImageRequest, MadeImage] = {}

    def file(self, person: EvaluatedPerson) -> Path:
        """Return the one file."""
        return self.folder / "mean.safetensors"

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the LoRAs.

        Raises:
            FileNotFoundError: There are none.
            ValueError: The store is damaged.
        """
        if (self.place / "layout.json").is_file():
            return {"LoRAs": store_fingerprint([LoRAStore.open(self.place)], "train")}
        return {"LoRAs": hash_files(lora_files(self.place))}

    def make(self, person: EvaluatedPerson) -> Made:
        """Average the LoRAs; nothing of it is for the person, so that the time is not measured.

        Raises:
            ValueError: A LoRA is damaged, or of another layout than the others.
        """
        if (self.place / "layout.json").is_file():
            store = LoRAStore.open(self.place)
            layout, loras = store.layout, LoRAsOnDisk([store], "train")
            return made_lora(LoRA(mean_of(in_batches(loras)), layout, {"mean_of": len(loras)}), None)
        files = lora_files(self.place)
        layout = file_layout(files[0], self.base.model)
        mean = mean_of(read_lora(path, layout)[None] for path in files)
        return made_lora(LoRA(mean, layout, {"mean_of": len(files)}), None)

    def ready(self, path: Path, seconds: float | None) -> ReadyOnce:
        """Return the shared base model, whose images are remembered."""
        return ReadyOnce(self.base, self.subject, self._made, size_of(path, seconds))

    def release(self) -> None:
        """Forget the images; the base model is shared."""
        self._made.clear()


def mean_of(batches: Iterator[Tensor]) -> Tensor:
    """Average LoRAs (numel,) float32 over batches (loras, numel).

    Their factors are averaged: LoRAs that were trained from one shared start have them in common coordinates.
    """
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for batch in batches:
        total, count = total + batch.double().sum(0), count + len(batch)
    return (total / count).float()


def lora_files(folder: Path) -> list[Path]:
    """List the LoRA files of a folder.

    Raises:
        FileNotFoundError: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no store (layout.json) and no LoRA files (*.safetensors)")
    return files


def file_layout(path: Path, base: BaseModel) -> LoRALayout:
    """Return the layout that a file has if it is a LoRA of the base model's attention, or also feed-forward, layers.

    Raises:
        ValueError: The file has no LoRA's factors.
    """
    down = {name: shape for name, shape in read_shapes(path)[0].items() if parse(name).role == "down"}
    if not down:
        raise ValueError(f"{path} holds no factors of a LoRA")
    return base.layout(next(iter(down.values()))[0], any("ff_net" in name or ".ff.net" in name for name in down))
