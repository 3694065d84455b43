"""Stage dreambooth: a LoRA per person, many people in one batch over one frozen U-Net.

dreambooth/<group>.safetensors      loras (people, numel) float32, loss (people,); metadata: who they are
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout
from training.base_model.diffusion_loss import DenoisingLoss, Objective, PersonImages
from training.base_model.sdxl import DTYPES, SDXLBase
from training.dreambooth.train import DreamBoothConfig, shared_start, train_loras
from training.lora_dataset.config import DatasetConfig, TeacherConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Worker

from .preprocess import Prepared, keep_text, read_prepared, read_texts

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
            albums, left_out = readable(config, everyone[item])
            if not albums:
                raise ValueError(next(iter(left_out.values())))
            loras, losses = teach(config, base, layout, start, albums, prior)
            good = loras.isfinite().all(1).tolist()
            left_out |= {
                name: "training ended in NaN; lower dreambooth.learning_rate"
                for name, finite in zip(albums, good, strict=True)
                if not finite
            }
            people = [name for name in albums if name not in left_out]
            if not people:
                raise ValueError(next(iter(left_out.values())))
            loras, losses = loras[good].cpu().contiguous(), losses[good].cpu().contiguous()
            provenance = {"settings": asdict(settings), "size": config.preprocess.size}
            metadata = {"people": json.dumps(people), "provenance": json.dumps(provenance)}
            write_tensors(config.stage(self.name) / f"{item}.safetensors", {"loras": loras, "loss": losses}, metadata)
            facts = {"people": people, "left_out": left_out, "loss": [round(loss, 5) for loss in losses.tolist()]}
            reason = "; ".join(f"without {name}: {why}" for name, why in left_out.items())
            return Record(item, reason=reason, facts=facts)

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Nothing: groups don't depend on each other."""


DREAMBOOTH = DreamBooth()


def groups(config: DatasetConfig) -> dict[str, list[str]]:
    """Who is trained together, by group. What is done stays as it is; people who are new make new groups.

    Whoever was left out of a group that is done, for a reason that its record tells, is not tried again.
    """
    records = [record for record in Manifest(config.stage(DREAMBOOTH.name)).records() if record.status == "done"]
    done = {record.item: list(record.facts["people"]) for record in records}
    taken = {person for people in done.values() for person in people}
    taken |= {person for record in records for person in record.facts.get("left_out", {})}
    left = [person for person in Manifest(config.stage("preprocess")).done() if person not in taken]
    size = config.dreambooth.people
    fresh = [left[i : i + size] for i in range(0, len(left), size)]
    return done | {people[0]: people for people in fresh}


def readable(config: DatasetConfig, people: Sequence[str]) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Pictures to train on, by person, and why some people have none: one bad file must not cost a whole group."""
    albums, left_out = {}, {}
    for person in people:
        try:
            albums[person] = read_prepared(config, person).split(config.preprocess.held_out)[0]
        except (ValueError, OSError, KeyError) as error:
            left_out[person] = f"{type(error).__name__}: {error}"
    return albums, left_out


def teach(
    config: DatasetConfig,
    base: SDXLBase,
    layout: LoRALayout,
    start: Tensor,
    people: Mapping[str, Prepared],
    prior: tuple[Tensor, str] | None = None,
) -> tuple[Tensor, Tensor]:
    """LoRAs (people, numel) and last losses (people,) from everybody's pictures. prior: latents, caption."""
    settings: TeacherConfig = config.dreambooth
    captions = sorted(
        {caption for own in people.values() for caption in own.captions} | ({prior[1]} if prior else set())
    )
    rows = {caption: row for row, caption in enumerate(captions)}
    context, pooled = (table.to(base.device, base.dtype) for table in read_texts(config, captions))
    albums = [
        PersonImages(
            person,
            own.latents.to(base.device),
            torch.tensor([rows[caption] for caption in own.captions]),
            torch.tensor(own.places),
            own.of,
        )
        for person, own in people.items()
    ]
    class_pictures = None
    if prior:
        texts = torch.full((len(prior[0]),), rows[prior[1]])
        class_pictures = PersonImages.whole("prior", prior[0].to(base.device), texts)

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
