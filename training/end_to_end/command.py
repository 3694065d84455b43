"""Tune an autoencoder, or MIF and DiT, through the base model's pictures (see `picture_stage`).

python -m training tune --config FILE               first an LAE from train-lae, later what train-difflora makes with it
accelerate launch -m training finetune --config FILE    on several GPUs
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from difflora_core.autoencoder.lae_file import load_lae, save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.lora.layout import LoRALayout
from difflora_core.model import HEADER, DiffLoRA
from training.base_model.lora_loss import LoRADiffusionLoss
from training.base_model.teacher_recovery import TeacherRecovery
from training.denoiser.train import Denoiser
from training.engine.loop import LossFunction, TrainConfig, open_accelerator
from training.engine.rounds import Figures, train_in_rounds
from training.engine.settings import read_settings
from training.engine.step_cost import measure
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest
from training.people.dataset_images import DatasetImages, dataset_loss, open_base
from training.people.embeddings import EmbeddingCache
from training.people.latents import cached_latents
from training.store.lora_store import Person, read_header
from training.store.loras import in_batches, open_loras, open_stores, people_of

from .objectives import (
    Autoencode,
    DenoiserFinetuning,
    FinetuneDataset,
    LAEFinetuning,
    denoiser_loss,
    lae_loss,
    recovery_by_steps,
    sampled_recovery,
)
from .sampling_choice import choose_sampling

LOOP = TrainConfig(steps=2000, learning_rate=3e-4, warmup=50, ema=0.98, unused_parameters=True, device="auto")
RUN = "run"
WORTH_IT = 0.01  # of teacher recovery, see `choose_sampling`
PEOPLE_AT_ONCE = 4  # in validation, with `rows` pictures of each


@dataclass(frozen=True)
class TuneSettings:
    """network: a file of `train-lae`, or a DiffLoRA checkpoint; the result is output/<the same name>.

    stores: of LoRAs, all of one layout, with the splits train and validation. dataset: the pipeline's YAML file, whose
    workspace holds the people's pictures and names the base model; preprocess.held_out is at least 1. embeddings:
    caches of `python -m training embed`, for MIF and DiT. rows: pictures of each person in a step. rounds: validations,
    of which the best is kept, on the first `validation_people`, who show `references` pictures. lae, denoiser: of the
    training, whichever it is.
    """

    network: Path
    stores: tuple[Path, ...]
    dataset: Path
    output: Path
    embeddings: tuple[Path, ...] = ()
    rows: int = 1
    rounds: int = 10
    validation_people: int = 16
    references: int = 3
    in_memory_gb: float = 8.0
    lae: LAEFinetuning = field(default_factory=lambda: LAEFinetuning(LOOP, people=4))
    denoiser: DenoiserFinetuning = field(default_factory=lambda: DenoiserFinetuning(LOOP, people=4))

    def __post_init__(self) -> None:
        if min(self.rows, self.rounds, self.validation_people, self.references) < 1:
            raise ValueError("rows, rounds, validation_people and references are at least 1")
        if self.network.parent == self.output:
            raise ValueError(f"{self.output} holds the network itself: choose another output folder, nothing is lost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see training/configs/tune_*.yaml")
    parser.add_argument("--dry-run", action="store_true", help="only print sizes, memory and measured speed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    settings = read_settings(TuneSettings, arguments.config)
    if arguments.dry_run:
        print(dry_run(settings))
    else:
        tune(settings)


def tune(settings: TuneSettings) -> Path:
    """Tune what `network` is, or go on where a run was ended; the file that comes out.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: what is there doesn't fit together.
    """
    job = open_job(settings)
    told = train(job)
    path = settings.output / settings.network.name
    if job.bench.first:
        job.finish(path, told)
        print(f"wrote {path}", flush=True)
    return path


def dry_run(settings: TuneSettings) -> str:
    """Sizes, memory and measured speed of a step, with everything that the training needs.

    Of MIF and DiT it leaves the teachers' latents in the output folder, where the training finds them again.
    """
    job = open_job(settings)
    cost = measure(job.module, job.loss, job.training.loop, job.training.people, frozen=job.frozen)
    seen = f"{job.training.people} people, {settings.rows} pictures of each, in a process"
    return f"a step       {seen}\n{cost}"


@dataclass(frozen=True)
class Job:
    """What is trained, how, and what becomes of it. finish(path, figures of all rounds) writes the file. frozen: what
    the loss goes through beside the module.
    """

    bench: "Bench"
    module: nn.Module
    loss: LossFunction
    training: LAEFinetuning | DenoiserFinetuning
    validate: Callable[[], Figures]
    finish: Callable[[Path, dict[str, Figures]], None]
    frozen: Mapping[str, nn.Module]


def train(job: Job) -> dict[str, Figures]:
    """Train in rounds; what they told."""
    told: dict[str, Figures] = {}

    def report(name: str, figures: Figures) -> None:
        told[name] = figures
        print(f"  {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()), flush=True)

    train_in_rounds(
        job.module,
        job.loss,
        job.training.loop,
        job.bench.settings.output / RUN,
        "tune",
        job.bench.settings.rounds,
        lambda: {"before": job.validate()},
        job.validate,
        report,
        by="teacher_recovery",
        settings={name: value for name, value in asdict(job.training).items() if name != "loop"},
    )
    return told


def open_job(settings: TuneSettings) -> Job:
    """Load what `settings` name."""
    if not settings.network.is_file():
        raise FileNotFoundError(f"There is no network {settings.network}: train-lae and train-difflora make them.")
    if HEADER in read_header(settings.network)[0].get("__metadata__", {}):
        return denoiser_job(settings)
    return lae_job(settings)


def lae_job(settings: TuneSettings) -> Job:
    """An autoencoder, whose latents are measured anew in the end."""
    lae = load_lae(settings.network)
    bench = Bench(settings, settings.lae.loop, lae.layout)
    lae.to(bench.device).train().requires_grad_(True)
    loras = open_loras(bench.stores, "train", 1e9 * settings.in_memory_gb)
    albums = DatasetImages(bench.dataset, people_of(bench.stores, "train"))

    @torch.no_grad()
    def validate() -> Figures:
        return {"teacher_recovery": bench.recovery(lae.decode(lae.encode(bench.teachers.to(bench.device))))}

    def finish(path: Path, told: dict[str, Figures]) -> None:
        lae.fit_latents(batch.to(bench.device) for batch in in_batches(loras))
        save_lae(path, lae.eval(), {"tuned": told})

    loss = lae_loss(lae, loras, albums, bench.loss(albums), settings.lae)
    return Job(bench, Autoencode(lae), loss, settings.lae, validate, finish, {"U-Net": bench.base.unet})


def denoiser_job(settings: TuneSettings) -> Job:
    """MIF and DiT of a checkpoint; its autoencoder stays. In the end its sampling is chosen anew."""
    model = DiffLoRA.load(settings.network)
    if not settings.embeddings:
        raise ValueError("`embeddings` names no cache: MIF and DiT need the people's embeddings to be tuned")
    cache = EmbeddingCache.open(*settings.embeddings)
    cache.check(model.config.encoders, (model.config.mif.face_width, model.config.mif.image_width))
    bench = Bench(settings, settings.denoiser.loop, model.layout)
    denoiser = Denoiser(model.config.dit, model.config.mif)
    denoiser.dit.load_state_dict(model.dit.state_dict())
    denoiser.mif.load_state_dict(model.mif.state_dict())
    denoiser.to(bench.device)
    lae = model.lae.to(bench.device)
    everyone, albums = everyone_of(bench, cache, lae)
    others, _ = cache.of(bench.validation)
    references = others.first(settings.references)

    def validate() -> Figures:
        return recovery_by_steps(bench.recovery, lae, denoiser, references)

    def look(sampling: SamplingConfig) -> Figures:
        return {"teacher_recovery": sampled_recovery(bench.recovery, lae, denoiser, references, sampling)}

    def finish(path: Path, told: dict[str, Figures]) -> None:
        model.dit.load_state_dict(denoiser.dit.state_dict())
        model.mif.load_state_dict(denoiser.mif.state_dict())
        sampling, tried = choose_sampling(look, lambda figures: figures["teacher_recovery"], WORTH_IT)
        provenance = {**model.config.provenance, "tuned": told, "validation": tried}
        model.config = replace(model.config, sampling=sampling, provenance=provenance)
        model.cpu().save(path)

    loss = denoiser_loss(denoiser, lae, everyone, bench.loss(albums), settings.denoiser)
    frozen = {"U-Net": bench.base.unet, "LAE": lae}
    return Job(bench, denoiser, loss, settings.denoiser, validate, finish, frozen)


class Bench:
    """What both have in common: base model, store, validation people and what a round of them says."""

    def __init__(self, settings: TuneSettings, loop: TrainConfig, layout: LoRALayout) -> None:
        self.settings, self.dataset = settings, load_config(settings.dataset)
        self.stores, self.layout = open_stores(settings.stores, layout), layout
        accelerator = open_accelerator(replace(loop, log_with=()), settings.output / RUN, "tune")
        self.device, self.first = accelerator.device, PartialState().is_main_process
        self.base = open_base(self.dataset, layout, str(self.device))
        self.validation = people_of(self.stores, "validation")[: settings.validation_people]
        self.teachers = open_loras(self.stores, "validation", 0).read(range(len(self.validation)))
        held_out = DatasetImages(self.dataset, self.validation, held_out=True)
        self.recovery = TeacherRecovery(self.loss(held_out), held_out, self.teachers, PEOPLE_AT_ONCE)

    def loss(self, albums: DatasetImages) -> LoRADiffusionLoss:
        """The loss through the base model on these people's pictures."""
        return dataset_loss(self.base, self.layout, albums, self.settings.rows)


def everyone_of(bench: Bench, cache: EmbeddingCache, lae: LAE) -> tuple[FinetuneDataset, DatasetImages]:
    """Everybody with embeddings and pictures, but those who are held out: the store's other splits.

    People without a teacher help as well; people with one come first.
    """
    taught = people_of(bench.stores, "train")
    splits = {split for store in bench.stores for split in store.splits()} - {"train"}
    kept_out = {str(person) for split in splits for person in people_of(bench.stores, split)}
    prepared = Manifest(bench.dataset.stage("preprocess")).done()
    known = {str(person) for person in taught}
    more: Sequence[Person] = [p for p in prepared if p in cache.people and p not in known and p not in kept_out]
    conditions, _ = cache.of([*taught, *more])
    albums = DatasetImages(bench.dataset, [*taught, *more])
    path = bench.settings.output / RUN / "latents_train.safetensors"
    latents, _ = cached_latents(bench.stores, "train", lae, path, str(bench.device))
    return FinetuneDataset(conditions, albums, torch.arange(len(taught)), latents), albums
