"""Stage verify: some teachers are loaded into the U-Net again and looked at.

verify/report.json      per person and in the mean: likeness with the LoRA and without, loss with it and without
verify/sheet.png        a person's own picture, pictures without the LoRA, pictures with it
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from torch import Tensor

from difflora_core.encoders import FaceEncoder, NoFaceError
from difflora_core.files import replacing
from difflora_core.images import write_picture
from difflora_core.lora.layout import LoRALayout
from training.base_model.diffusion_loss import loss_target, stratified
from training.base_model.sdxl import DTYPES, SDXLBase
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.images.faces import open_faces, person_embedding
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Worker
from training.store.lora_store import LoRAStore

from .preprocess import read_prepared, read_texts

LOSS_ROWS, LOSS_SEED = 16, 77
"""Of the loss: noisy pictures per person, and dice that training has not seen."""
CELL, EDGE = 160, 8


class Verify:
    """The stage. An item is a person."""

    name = "verify"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """People of the store who were trained here, evenly spread over its order."""
        trained = set(Manifest(config.stage("preprocess")).done())
        store = LoRAStore.open(config.workspace / "store")
        people = [str(entry.person) for entry in store.entries() if str(entry.person) in trained]
        count = min(config.verify.people, len(people))
        return [people[i * len(people) // count] for i in range(count)]

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Loads base model and face models, and reads the store's index."""
        base = SDXLBase.open(config.base, device, DTYPES[config.dreambooth.dtype])
        encoder = open_faces(config.faces)
        store = LoRAStore.open(config.workspace / "store")
        places = {str(entry.person): entry for entry in store.entries()}

        def work(item: str) -> Record:
            with safe_open(places[item].shard, "pt") as file:
                lora = file.get_slice("loras")[places[item].row]
            return look(config, base, encoder, store.layout, item, lora)

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Write report and sheet from all records."""
        records = [record for record in Manifest(config.stage(self.name)).records() if record.status == "done"]
        if not records:
            return
        means = {name: fmean(record.facts[name] for record in records) for name in FIGURES}
        people = {record.item: {name: record.facts[name] for name in FIGURES} for record in records}
        folder = config.stage(self.name) / "report"
        with replacing(folder / "report.json") as partial:
            partial.write_text(json.dumps({"mean": means, "people": people}, indent=1), encoding="utf-8")
        strips = [Image.open(folder / f"{record.item}.png") for record in records]
        sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
        top = 0
        for strip in strips:
            sheet.paste(strip, (0, top))
            top += strip.height
        write_picture(folder / "sheet.png", sheet)


VERIFY = Verify()
FIGURES = ("similarity", "similarity_without", "loss", "loss_without")


@dataclass(frozen=True)
class Looked:
    """Pictures (n, 3, size, size) in [0, 1], the mean cosine of their faces with the person, and a denoising loss."""

    pictures: Tensor
    similarity: float
    loss: float


def look(
    config: DatasetConfig, base: SDXLBase, encoder: FaceEncoder, layout: LoRALayout, person: str, lora: Tensor
) -> Record:
    """Draw with a person's LoRA and without; similarity is the raw cosine with collect's embedding, 0 without a face.

    The loss is taken on the pictures that were kept from training. Where none were, on the person's others, with noise
    that training has not seen: that tells whether the LoRA arrived in the U-Net, not whether it generalizes.
    """
    without = _look(config, base, encoder, person)
    with base.lora(lora, layout):
        own = _look(config, base, encoder, person)
    facts: dict[str, Any] = {
        "similarity": own.similarity,
        "similarity_without": without.similarity,
        "loss": own.loss,
        "loss_without": without.loss,
    }
    source = Manifest(config.stage("filter")).read(person)
    assert source is not None
    reference = Image.open(config.workspace / source.facts["kept"][0]["file"]).convert("RGB")
    title = f"{person}: {without.similarity:.2f} without, {own.similarity:.2f} with the LoRA"
    strip = _strip(title, [reference, *_images(without.pictures[:2]), *_images(own.pictures)])
    write_picture(config.stage(VERIFY.name) / "report" / f"{person}.png", strip)
    return Record(person, facts=facts)


def _look(config: DatasetConfig, base: SDXLBase, encoder: FaceEncoder, person: str) -> Looked:
    settings = config.verify
    own, kept = read_prepared(config, person).split(config.preprocess.held_out)
    measured = kept if kept.captions else own
    chosen = [own.captions[i % len(own.captions)] for i in range(settings.pictures)]
    pictures = base.generate(chosen, config.preprocess.size, settings.steps, settings.guidance, settings.seed)
    known, cosines = person_embedding(config, person), []
    for number, image in enumerate(_images(pictures), start=1):
        try:
            embedding = encoder.largest(np.asarray(image), f"picture {number}").embedding.numpy()
            cosines.append(float(known @ embedding / np.linalg.norm(embedding)))
        except NoFaceError:
            cosines.append(0.0)
    texts = read_texts(config, measured.captions)
    return Looked(pictures, fmean(cosines), denoising_loss(base, measured.latents, *texts, config.preprocess.size))


@torch.no_grad()
def denoising_loss(base: SDXLBase, latents: Tensor, context: Tensor, pooled: Tensor, size: int) -> float:
    """Mean squared error of the U-Net's prediction on pictures (n, 4, h, w) and their texts, always the same dice."""
    dice = torch.Generator().manual_seed(LOSS_SEED)
    scheduler = base.scheduler()
    picks = torch.arange(LOSS_ROWS) % len(latents)
    clean = latents[picks].to(base.device)
    timesteps = stratified(LOSS_ROWS, scheduler.config.num_train_timesteps, dice).to(base.device)
    noise = torch.randn(clean.shape, generator=dice).to(base.device)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    output = base.predict(noisy, timesteps, context[picks].to(base.device), pooled[picks].to(base.device), size)
    return float((output - loss_target(scheduler, clean, noise, timesteps)).square().mean())


def _images(pictures: Tensor) -> list[Image.Image]:
    pixels = pictures.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _strip(title: str, pictures: Sequence[Image.Image]) -> Image.Image:
    """A line of text and pictures side by side."""
    strip = Image.new("RGB", (EDGE + len(pictures) * (CELL + EDGE), CELL + 28 + EDGE), "white")
    ImageDraw.Draw(strip).text((EDGE, 6), title, "#2d2a26", ImageFont.load_default(14))
    for column, picture in enumerate(pictures):
        strip.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (EDGE + column * (CELL + EDGE), 28))
    return strip
