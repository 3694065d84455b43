"""Fine-tune an autoencoder, or MIF and DiT, end to end with the base model's diffusion loss.

python -m training finetune --config FILE               # an LAE from train-lae, later a checkpoint made with it
accelerate launch -m training finetune --config FILE    # on several GPUs
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from difflora_core.autoencoder.lae_file import load_lae, read_lae_header, save_lae
from difflora_core.autoencoder.model import network_for
from difflora_core.checkpoint import read_checkpoint_header
from difflora_core.denoiser.config import SamplingConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.files import open_tensors
from difflora_core.lora.layout import LoRALayout
from difflora_core.model import DiffLoRA
from training.engine.accelerator import close_trackers
from training.engine.format import format_bytes
from training.engine.step_cost import StepCost, measure_step
from training.people.embeddings import EmbeddingCache
from training.people.latents import is_checkpoint
from training.store.loras import open_loras, people_of
from training.trainer_command import TrainerCommand

from .inputs import RUN, FinetuneInputs
from .objectives import DenoiserEndToEndObjective, LAEEndToEndObjective
from .recovery_metrics import sampled_recovery
from .sampling_choice import choose_sampling
from .settings import FinetuneSettings
from .train import finetune_denoiser, finetune_lae

MIN_RECOVERY_IMPROVEMENT = 0.01
"""What costlier sampling has to add to the teacher recovery to be recommended, see `choose_sampling`."""
TRAINING_BYTES = 4 + 4 + 8 + 4
"""For each trained parameter of a process: weights, gradients, AdamW's moments, EMA."""


def finetune(settings: FinetuneSettings) -> Path:
    """Fine-tune what `network` is, or resume; return the file, which the first process writes.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: The parts don't fit together.
    """
    return finetune_checkpoint(settings) if _is_checkpoint(settings) else finetune_lae_file(settings)


def dry_run(settings: FinetuneSettings) -> Iterator[str]:
    """Describe sizes, then memory and measured speed of a step, with everything that the training needs.

    Of MIF and DiT it leaves the teachers' latents in the output folder, where the training finds them again.
    """
    yield describe_sizes(settings)
    yield str(denoiser_cost(settings) if _is_checkpoint(settings) else lae_cost(settings))


def describe_sizes(settings: FinetuneSettings) -> str:
    """Describe network, step and run in lines, by the settings and the network file's header alone."""
    own = settings.denoiser if _is_checkpoint(settings) else settings.lae
    trained, layout, name = _untrained(settings)
    parameters, loop = sum(parameter.numel() for parameter in trained.parameters()), own.loop
    images = own.people * settings.images_per_person
    more = f", and the latents of {settings.denoiser.batch} teachers" if own is settings.denoiser else ""
    more += f", {loop.accumulate} times" if loop.accumulate > 1 else ""
    return "\n".join(
        [
            f"LoRA         {len(layout.modules)} modules, rank {layout.rank}: {layout.numel:,} values",
            f"trained      {name}: {parameters:,} parameters",
            f"a step       {own.people} people, {settings.images_per_person} images of each{more}, in a process",
            f"the run      {loop.steps:,} steps: {loop.steps * loop.accumulate * images:,} images through the U-Net "
            f"and back, in a process; {settings.validation_people} people evaluated every {own.evaluation.interval:,}",
            f"at least     {format_bytes(TRAINING_BYTES * parameters)} of weights, gradients, AdamW's moments and EMA "
            "without sharding; U-Net and activations are measured now",
        ]
    )


def _untrained(settings: FinetuneSettings) -> tuple[nn.Module, LoRALayout, str]:
    """Make what is trained without weights; return it with the layout of its LoRAs and its name."""
    path = settings.network
    with open_tensors(path) as file, torch.device("meta"):
        metadata = file.metadata() or {}
        if _is_checkpoint(settings):
            layout, config = read_checkpoint_header(path, metadata, file.keys())
            return Denoiser(config.dit, config.mif), layout, "MIF and DiT"
        layout, shape, _ = read_lae_header(path, metadata)
        return network_for(layout, shape), layout, f"LAE, {shape.kind}"


def finetune_lae_file(settings: FinetuneSettings) -> Path:
    """Fine-tune an autoencoder, whose latents are standardized anew at the end."""
    lae = load_lae(settings.network)
    inputs = FinetuneInputs.open(settings, settings.lae.loop, lae.layout)
    loras = open_loras(inputs.stores, "train", 1e9 * settings.in_memory_gb)
    people = people_of(inputs.stores, "train")
    images, loss = inputs.images(people)
    history = finetune_lae(
        lae.to(inputs.device),
        loras,
        images,
        inputs.validation_loras,
        loss,
        inputs.recovery,
        settings.lae,
        settings.output / RUN,
        "finetune",
        inputs.accelerator,
        inputs.identity(people),
    )
    close_trackers(inputs.accelerator)
    path = settings.output / settings.network.name
    if inputs.accelerator.is_main_process:
        save_lae(path, lae, {"finetuning": history})
        print(f"wrote {path}", flush=True)
    return path


def finetune_checkpoint(settings: FinetuneSettings) -> Path:
    """Fine-tune MIF and DiT of a checkpoint; its autoencoder stays. At the end its sampling is chosen anew."""
    model, cache = DiffLoRA.load(settings.network), open_cache(settings)
    cache.check(model.config.encoders, (model.config.mif.face_width, model.config.mif.image_width))
    inputs = FinetuneInputs.open(settings, settings.denoiser.loop, model.layout)
    denoiser, lae = trainable_denoiser(model).to(inputs.device), model.lae.to(inputs.device)
    people = inputs.finetune_people(cache)
    dataset, loss = inputs.finetune_dataset(people, cache, lae)
    validation = inputs.references(cache)
    embeddings = cache.digest([*people, *inputs.validation])
    history = finetune_denoiser(
        denoiser,
        lae,
        dataset,
        validation,
        loss,
        inputs.recovery,
        settings.denoiser,
        settings.output / RUN,
        "finetune",
        inputs.accelerator,
        inputs.identity(people) | {"references": settings.references, "embeddings (hash)": embeddings},
    )
    close_trackers(inputs.accelerator)
    path = settings.output / settings.network.name
    if inputs.accelerator.is_main_process:

        def evaluate(sampling: SamplingConfig) -> dict[str, float]:
            return {"teacher_recovery": sampled_recovery(inputs.recovery, lae, denoiser, validation, sampling)}

        sampling, tried = choose_sampling(
            evaluate, lambda metrics: metrics["teacher_recovery"], MIN_RECOVERY_IMPROVEMENT
        )
        model.dit.load_state_dict(denoiser.dit.state_dict())
        model.mif.load_state_dict(denoiser.mif.state_dict())
        provenance = {**model.config.provenance, "finetuning": history, "sampling": tried}
        model.config = replace(model.config, sampling=sampling, provenance=provenance)
        model.cpu().save(path)
        print(f"wrote {path}", flush=True)
    return path


def lae_cost(settings: FinetuneSettings) -> StepCost:
    """Measure a step of an autoencoder."""
    lae = load_lae(settings.network)
    inputs = FinetuneInputs.open(settings, settings.lae.loop, lae.layout, trackers=False)
    loras = open_loras(inputs.stores, "train", 1e9 * settings.in_memory_gb)
    images, loss = inputs.images(people_of(inputs.stores, "train"))
    lae.to(inputs.device).requires_grad_(True)
    objective = LAEEndToEndObjective(lae, loras, images, loss, settings.lae)
    return measure_step(lae, objective, settings.lae.loop, settings.lae.people, frozen={"U-Net": inputs.base.unet})


def denoiser_cost(settings: FinetuneSettings) -> StepCost:
    """Measure a step of MIF and DiT."""
    model, cache = DiffLoRA.load(settings.network), open_cache(settings)
    inputs = FinetuneInputs.open(settings, settings.denoiser.loop, model.layout, trackers=False)
    denoiser, lae = trainable_denoiser(model).to(inputs.device), model.lae.to(inputs.device)
    dataset, loss = inputs.finetune_dataset(inputs.finetune_people(cache), cache, lae)
    objective = DenoiserEndToEndObjective(denoiser, lae, dataset, loss, settings.denoiser)
    frozen = {"U-Net": inputs.base.unet, "LAE": lae}
    return measure_step(denoiser, objective, settings.denoiser.loop, settings.denoiser.people, frozen=frozen)


def open_cache(settings: FinetuneSettings) -> EmbeddingCache:
    """Open the people's embeddings.

    Raises:
        ValueError: The settings name none.
    """
    if not settings.embeddings:
        raise ValueError("`embeddings` names no cache: MIF and DiT need the people's embeddings")
    return EmbeddingCache.open(*settings.embeddings)


def trainable_denoiser(model: DiffLoRA) -> Denoiser:
    """Copy MIF and DiT of a checkpoint."""
    denoiser = Denoiser(model.config.dit, model.config.mif)
    denoiser.dit.load_state_dict(model.dit.state_dict())
    denoiser.mif.load_state_dict(model.mif.state_dict())
    return denoiser


def _is_checkpoint(settings: FinetuneSettings) -> bool:
    if not settings.network.is_file():
        raise FileNotFoundError(f"There is no network {settings.network}: train-lae and train-difflora make them.")
    return is_checkpoint(settings.network)


COMMAND = TrainerCommand(FinetuneSettings, "training/recipes/*/*_finetune_*.yaml", dry_run, finetune)
add_arguments = COMMAND.add_arguments
