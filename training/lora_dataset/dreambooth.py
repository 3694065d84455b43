"""Stage dreambooth: a LoRA per person, many people in one batch over one frozen U-Net.

dreambooth/<group>.safetensors      loras (people, numel) float32, loss (people,); metadata: who they are
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from difflora_core.layout import LoRALayout
from difflora_core.tensor_file import write_tensors
from training.denoising import Album, DenoisingLoss, Objective
from training.dreambooth import DreamBoothConfig, shared_start, train_loras

from .base import DTYPES, SDXLBase
from .config import DatasetConfig, TeacherConfig
from .manifest import Manifest, Record
from .preprocess import keep_text, read_prepared, read_texts
from .stage import Worker

PRIOR_PICTURES, PRIOR_STEPS, PRIOR_GUIDANCE = 8, 30, 5.0
"""Of prior preservation: pictures that the base model draws of the class word alone; our choice."""


class DreamBooth:
    """The stage. An item is a group of people, named after its first."""

    name = "dreambooth"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Groups that are done, and the others."""
        return list(groups(config))

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Loads the base model."""
        settings = config.dreambooth
        base = SDXLBase.open(config.base, device, DTYPES[settings.dtype])
        layout = base.layout(settings.rank, settings.feed_forward)
        start = shared_start(layout).to(base.device)
        prior = prior_pictures(config, base) if settings.prior_weight else None
        everyone = groups(config)

        def work(item: str) -> Record:
            people = everyone[item]
            loras, losses = teach(config, base, layout, start, people, prior)
            if not loras.isfinite().all():
                bad = [name for name, lora in zip(people, loras, strict=True) if not lora.isfinite().all()]
                raise ValueError(f"training of {bad[0]} ended in NaN; lower dreambooth.learning_rate")
            path = config.stage(self.name) / f"{item}.safetensors"
            provenance = {"settings": asdict(settings), "size": config.preprocess.size}
            metadata = {"people": json.dumps(people), "provenance": json.dumps(provenance)}
            write_tensors(path, {"loras": loras.cpu().contiguous(), "loss": losses.cpu().contiguous()}, metadata)
            return Record(item, facts={"people": people, "loss": [round(loss, 5) for loss in losses.tolist()]})

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Nothing: groups don't depend on each other."""


DREAMBOOTH = DreamBooth()


def groups(config: DatasetConfig) -> dict[str, list[str]]:
    """Who is trained together, by group. What is done stays as it is; people who are new make new groups."""
    done = {
        record.item: list(record.facts["people"])
        for record in Manifest(config.stage(DREAMBOOTH.name)).records()
        if record.status == "done"
    }
    taken = {person for people in done.values() for person in people}
    left = [person for person in Manifest(config.stage("preprocess")).done() if person not in taken]
    size = config.dreambooth.people
    fresh = [left[i : i + size] for i in range(0, len(left), size)]
    return done | {people[0]: people for people in fresh}


def teach(
    config: DatasetConfig,
    base: SDXLBase,
    layout: LoRALayout,
    start: Tensor,
    people: Sequence[str],
    prior: tuple[Tensor, str] | None = None,
) -> tuple[Tensor, Tensor]:
    """LoRAs (people, numel) and last losses (people,) of people who are preprocessed. prior: latents, caption."""
    settings: TeacherConfig = config.dreambooth
    read = {person: read_prepared(config, person) for person in people}
    captions = sorted({caption for own in read.values() for caption in own.captions} | ({prior[1]} if prior else set()))
    rows = {caption: row for row, caption in enumerate(captions)}
    context, pooled = (table.to(base.device, base.dtype) for table in read_texts(config, captions))
    albums = [
        Album(
            person,
            own.latents.to(base.device),
            torch.tensor([rows[caption] for caption in own.captions]),
            torch.tensor(own.places),
            own.of,
        )
        for person, own in read.items()
    ]
    class_pictures = None
    if prior:
        texts = torch.full((len(prior[0]),), rows[prior[1]])
        class_pictures = Album.whole("prior", prior[0].to(base.device), texts)

    def predict(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        return base.predict(noisy, timesteps, context[texts], pooled[texts], config.preprocess.size)

    loss = DenoisingLoss(
        predict,
        base.scheduler(),
        albums,
        settings.rows,
        settings.seed,
        Objective(settings.shared_noise, settings.min_snr_gamma, settings.prior_weight),
        class_pictures,
    )
    training = DreamBoothConfig(
        steps=settings.steps,
        rows=settings.rows,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        seed=settings.seed,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    loras = train_loras(base.unet, layout, start, len(people), loss, training)
    return loras, loss.history[-1]


def prior_pictures(config: DatasetConfig, base: SDXLBase) -> tuple[Tensor, str]:
    """Latents of pictures of the class word alone, drawn by the base model, and their caption."""
    caption = f"a portrait of a {config.preprocess.class_word}"
    keep_text(config, base, caption)
    size = config.preprocess.size
    pictures = base.generate(
        [caption] * PRIOR_PICTURES, size, PRIOR_STEPS, PRIOR_GUIDANCE, config.dreambooth.seed, config.preprocess.batch
    )
    return base.encode_pictures(pictures), caption
