"""Train MIF and DiT on a store of LoRAs, a frozen LAE and people's embeddings, into one DiffLoRA checkpoint.

python -m training train-difflora --config training/recipes/miniature/4_train_difflora.yaml
accelerate launch -m training train-difflora --config training/recipes/sdxl-4x24gb/4_train_difflora.yaml
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig
from difflora_core.denoiser.config import SamplingConfig
from training.engine.accelerator import close_trackers, open_accelerator
from training.engine.evaluated_run import compared_settings, describe_run
from training.lora_dataset.config import load_config
from training.people.assembly import assemble
from training.people.dataset_images import held_out_files
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.people.embed import embed_and_open
from training.people.embeddings import EmbeddingCache
from training.people.latents import check_layout, digest_of_lae, open_lae
from training.store.lora_store import LoRAStore
from training.store.loras import (
    LoRAsInMemory,
    LoRAsOnDisk,
    digest_of_loras,
    digest_of_people,
    open_stores,
    people_of,
)
from training.store.shard import Person
from training.trainer_command import TrainerCommand

from .data import people_of_split
from .difflora_dry_run import dry_run
from .settings import DiffLoRASettings
from .train import loop_config, train_denoiser

RUN, RESULT = "run", "difflora.safetensors"
"""In the output folder: the run's state, and the checkpoint."""
ONE_SHOT = SamplingConfig(steps=1, guidance_scale=1.0, scheduler="ddim", samples=1)
"""How a regression is sampled; see `new_denoiser`."""


def train_difflora(settings: DiffLoRASettings) -> Path:
    """Train as the settings say, or resume; return the checkpoint, which the first process writes.

    Raises:
        FileNotFoundError: A store, a split, an LAE or embeddings are missing; the message says what makes them.
        ValueError: The parts don't fit together.
    """
    folder = settings.output / RUN
    accelerator = open_accelerator(loop_config(settings.training), folder, "difflora")
    lae, stores = open_lae(settings.lae), open_stores(settings.stores)
    check_layout(stores, lae)
    widths = settings.mif.face_width, settings.mif.image_width
    cache = embed_and_open(settings.embeddings, settings.encoders, widths, accelerator)
    caches = {"train": cache, "validation": validation_references(settings, cache, stores)}
    with accelerator.main_process_first():  # the others read the latents that the first one has written
        (people, names), (validation, validation_names) = (
            people_of_split(stores, split, lae, own, settings.embeddings.allow_missing, folder, str(accelerator.device))
            for split, own in caches.items()
        )
    check = None
    if settings.diffusion_loss_check and validation.loras is not None and accelerator.is_main_process:
        compared, teachers = validation_names[: len(validation.loras)], LoRAsInMemory(validation.loras)
        check = DiffusionLossCheck(settings.diffusion_loss_check, lae.layout, compared, teachers, accelerator.device)
    dit, mif = settings.networks(lae, cache.widths)
    identity = {
        **identify(settings, lae, stores, names, validation_names),
        "embeddings (hash)": cache.digest(names),
        "validation embeddings (hash)": caches["validation"].digest(validation_names),
    }
    denoiser, history = train_denoiser(
        people, validation, dit, mif, settings.training, folder, lae, identity, accelerator, check
    )
    close_trackers(accelerator)
    path = settings.output / RESULT
    if accelerator.is_main_process:
        provenance = describe_run(len(names), len(validation_names), settings.training, history)
        sampling = settings.sampling if settings.training.objective == "diffusion" else ONE_SHOT
        config = DiffLoRAConfig(lae.config, dit, mif, settings.encoders, sampling, provenance)
        assemble(lae, denoiser, config).save(path)
        print(f"wrote {path}", flush=True)
    return path


def validation_references(
    settings: DiffLoRASettings, cache: EmbeddingCache, stores: Sequence[LoRAStore]
) -> EmbeddingCache:
    """Return the embeddings without those of images on which validation people's diffusion loss is measured."""
    if settings.diffusion_loss_check is None:
        return cache
    dataset = load_config(settings.diffusion_loss_check.dataset)
    return cache.without(held_out_files(dataset, people_of(stores, "validation")))


def identify(
    settings: DiffLoRASettings, lae: LAE, stores: Sequence[LoRAStore], people: list[Person], validation: list[Person]
) -> Mapping[str, Any]:
    """Return what a run can't be resumed without: another network, loss or LAE, or other LoRAs, people or encoders."""
    return {
        "dit": asdict(settings.dit),
        "mif": asdict(settings.mif),
        "encoders": asdict(settings.encoders),
        "training": compared_settings(settings.training),
        "lae": digest_of_lae(lae)[:16],
        "people": digest_of_people(people),
        "validation people": digest_of_people(validation),
        "LoRAs (hash)": digest_of_loras(*(LoRAsOnDisk(stores, split) for split in ("train", "validation"))),
    }


COMMAND = TrainerCommand(DiffLoRASettings, "training/recipes/*/4_train_difflora.yaml", dry_run, train_difflora)
add_arguments = COMMAND.add_arguments
