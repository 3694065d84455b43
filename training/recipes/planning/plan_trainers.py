"""What the trainers' steps will cost."""

from dataclasses import replace

from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.config import TrainConfig
from training.lora_dataset.config import DatasetConfig, load_config
from training.recipes.step_files import LAE_FILE

from .network_sizes import NetworkSize
from .plan_row import PlanRow, Situation, add, milliseconds, times
from .scaling import (
    GIB,
    RESERVE,
    UNET_BYTES,
    dreambooth_bytes,
    dreambooth_figures,
    dreambooth_seconds,
    network_seconds,
    optimizer_seconds,
    training_bytes,
)

STATE_BYTES = 4 + 4 + 8 + 4
"""On disk for each parameter, float32: weights, EMA, moments, and the best weights."""
LAE_FILE_BYTES, CHECKPOINT_BYTES, FROZEN_BYTES, FLOAT32_BYTES = 4, 2, 4, 4
"""For each parameter of the result, of a DiffLoRA checkpoint, and of a frozen network on a GPU."""
LORA_COPIES = 3
"""Of a batch of LoRAs on the device: as read, normalized, and what a blend adds."""
NO_NETWORK = "a network of this kind is not counted"


def lae_row(settings: LAESettings, at: Situation) -> PlanRow:
    """Return the row of `train-lae`."""
    training, name = settings.training, "train-lae"
    if at.lae is None or at.lora is None:
        return PlanRow(name, note=NO_NETWORK if at.lora else "the base model's configuration is not there")
    loop, batch = training.loop, training.batch
    measured = _measured(name, at, at.lae, batch, loop)
    lora_bytes = FLOAT32_BYTES * LORA_COPIES * at.lora.values
    check = at.base_bytes if settings.diffusion_loss_check else 0.0
    memory = add(_trained_bytes(at, at.lae, loop), batch * (at.lae.activations + lora_bytes), check)
    step = add(times(loop.accumulate, _pass_seconds(at, at.lae, batch)), optimizer_seconds(at.card, at.lae))
    disk = at.lae.parameters * (STATE_BYTES + LAE_FILE_BYTES)
    note = _notes(at, step, batch, loop, "at least: operations at the share of the rate that a DiT reaches, optimizer")
    return _trainer_row(name, disk, memory, step, loop, measured, note, at)


def difflora_row(settings: DiffLoRASettings, at: Situation) -> PlanRow:
    """Return the row of `train-difflora`."""
    training, name = settings.training, "train-difflora"
    if at.denoiser is None:
        return PlanRow(name, note=NO_NETWORK)
    loop, batch = training.loop, training.batch
    measured = _measured(name, at, at.denoiser, batch, loop)
    check = at.base_bytes if settings.diffusion_loss_check else 0.0
    decoded = training.delta_w_people if training.delta_w_error or training.delta_w_direction else 0
    activations = at.denoiser.checkpointed if training.gradient_checkpointing else at.denoiser.activations
    memory = add(_trained_bytes(at, at.denoiser, loop), batch * activations, _frozen_lae(at, decoded), check)
    once = _pass_seconds(at, at.denoiser, batch, training.gradient_checkpointing)
    step = times(loop.accumulate, once)
    note = _notes(at, step, batch, loop, "by its operations, at the share of the rate measured at the paper's size")
    return _trainer_row(name, _denoiser_disk(at), memory, step, loop, measured, note, at)


def finetune_row(settings: FinetuneSettings, at: Situation) -> PlanRow:
    """Return the row of `finetune`, of an autoencoder or of MIF and DiT."""
    dataset = load_config(settings.dataset)
    is_lae = settings.network.name == LAE_FILE
    name = f"finetune ({'LAE' if is_lae else 'MIF, DiT'})"
    network = at.lae if is_lae else at.denoiser
    if network is None:
        return PlanRow(name, note=NO_NETWORK)
    own = settings.lae if is_lae else settings.denoiser
    loop, people = own.loop, own.people
    measured = _measured("finetune", at, network, people, loop, dataset.preprocess.size)
    images = people * settings.images_per_person
    unet_bytes = _unet_activation_bytes(at, dataset, images, settings.gradient_checkpointing)
    samples = people if is_lae else people + settings.denoiser.batch
    memory = add(_trained_bytes(at, network, loop), samples * network.activations, unet_bytes)
    memory = add(memory, at.base_bytes)
    unet = _unet_seconds(at, dataset, images, settings.gradient_checkpointing)
    once = add(unet, _pass_seconds(at, network, samples))
    if is_lae:
        disk: float | None = network.parameters * (STATE_BYTES + LAE_FILE_BYTES)
        step = add(times(loop.accumulate, once), optimizer_seconds(at.card, network))
    else:
        disk = _denoiser_disk(at)
        memory = add(memory, _frozen_lae(at, people))
        step = times(loop.accumulate, add(once, _rollout_seconds(settings.denoiser.max_rollout_steps, at)))
    if step is None:  # the U-Net takes most of it
        step, part = times(loop.accumulate, unet), "of the U-Net alone, from dreambooth's figures"
    else:
        part = "of the U-Net from dreambooth's figures, and of the network by its operations"
    note = _notes(at, step, people, loop, part)
    return _trainer_row(name, disk, memory, step, loop, measured, note, at)


def joint_row(settings: JointSettings, at: Situation) -> PlanRow:
    """Return the row of `train-teacher-free`: LAE, MIF and DiT together, and the U-Net."""
    name, training = "train-teacher-free", settings.training
    if at.lae is None or at.denoiser is None:
        return PlanRow(name, note=NO_NETWORK)
    assert settings.embeddings.dataset is not None  # the settings have checked it
    dataset = load_config(settings.embeddings.dataset)
    loop, people = training.loop, training.people
    network = replace(
        at.denoiser,
        parameters=at.lae.parameters + at.denoiser.parameters,
        operations=at.lae.operations + at.denoiser.operations,  # encodes what it decodes, as the LAE's own training
        activations=at.lae.activations + at.denoiser.activations,
    )
    measured = _measured(name, at, network, people, loop, dataset.preprocess.size)
    images = people * settings.images_per_person
    unet_bytes = _unet_activation_bytes(at, dataset, images, settings.gradient_checkpointing)
    memory = add(_trained_bytes(at, network, loop), people * network.activations, unet_bytes)
    memory = add(memory, at.base_bytes)
    unet = _unet_seconds(at, dataset, images, settings.gradient_checkpointing)
    once = add(unet, _pass_seconds(at, network, people), _rollout_seconds(training.max_rollout_steps, at))
    step = add(times(loop.accumulate, once), optimizer_seconds(at.card, at.lae))
    if step is None:
        step, part = times(loop.accumulate, unet), "of the U-Net alone, from dreambooth's figures"
    else:
        part = "of the U-Net from dreambooth's figures, and of the networks by their operations"
    disk = add(network.parameters * STATE_BYTES, CHECKPOINT_BYTES * network.parameters)
    return _trainer_row(name, disk, memory, step, loop, measured, _notes(at, step, people, loop, part), at)


def _measured(
    step: str, at: Situation, network: NetworkSize, batch: int, loop: TrainConfig, size: int = 768
) -> tuple[float, float]:
    """Seconds of an optimizer step and peak in bytes that were measured of such micro-batches; 0 is unknown."""
    figure = at.card.step(step, network.parameters, batch, size) if at.card else None
    if figure is None:
        return 0.0, 0.0
    return figure.ms / 1000 * loop.accumulate / figure.accumulate, figure.gib * GIB


def _trainer_row(
    name: str,
    disk: float | None,
    memory: float | None,
    step: float | None,
    loop: TrainConfig,
    measured: tuple[float, float],
    note: str,
    at: Situation,
) -> PlanRow:
    seconds, peak = measured
    memory = times(RESERVE, memory)
    basis = "memory by arithmetic"
    if peak and at.processes == 1:
        memory, basis = peak, "memory measured"
    if seconds:
        step, note = seconds, f"{loop.steps:,} steps × {milliseconds(seconds)} measured"
    if memory is not None:
        note += f"; {basis}"
    return PlanRow(name, None, disk, memory, times(loop.steps, step), note)


def _notes(at: Situation, step: float | None, batch: int, loop: TrainConfig, part: str) -> str:
    if step is None:
        return "hours not measured"
    samples = batch * loop.accumulate * at.processes
    return f"{loop.steps:,} steps of {samples} × {milliseconds(step)} {part}"


def _trained_bytes(at: Situation, network: NetworkSize, loop: TrainConfig) -> float | None:
    """Bytes of a trained network without activations; None on a CPU."""
    if not at.gpus:
        return None
    return training_bytes(network.parameters, at.gpus, loop.shard, loop.mixed_precision == "bf16")


def _frozen_lae(at: Situation, decoded: int) -> float:
    """Bytes of the LAE, and of the activations of as many latents that go through its decoder, at most."""
    return FROZEN_BYTES * at.lae.parameters + decoded * at.lae.activations if at.lae else 0.0


def _denoiser_disk(at: Situation) -> float | None:
    """Bytes of the state, the best weights, the checkpoint and the teachers' latents."""
    if at.denoiser is None:
        return None
    checkpoint = CHECKPOINT_BYTES * (at.denoiser.parameters + (at.lae.parameters if at.lae else 0))
    return at.denoiser.parameters * STATE_BYTES + checkpoint + at.people * FLOAT32_BYTES * at.latent_values


def _pass_seconds(
    at: Situation, network: NetworkSize, samples: int, gradient_checkpointing: bool = False
) -> float | None:
    measured = at.measured_dit
    if measured is None:
        return None
    return network_seconds(at.card, measured, network, samples, gradient_checkpointing)


def _unet_seconds(at: Situation, dataset: DatasetConfig, images: int, gradient_checkpointing: bool) -> float | None:
    """Seconds of so many images through the U-Net and back, as dreambooth's."""
    size = dataset.preprocess.size
    return dreambooth_seconds(dreambooth_figures(at.card, size, gradient_checkpointing), images, size)


def _unet_activation_bytes(
    at: Situation, dataset: DatasetConfig, images: int, gradient_checkpointing: bool
) -> float | None:
    """Bytes of the U-Net's activations with so many images, which are what dreambooth's peak has above the weights."""
    size = dataset.preprocess.size
    peak = dreambooth_bytes(dreambooth_figures(at.card, size, gradient_checkpointing), images, size)
    return None if peak is None else peak - UNET_BYTES


def _rollout_seconds(most: int, at: Situation) -> float | None:
    """Seconds of the sampler's steps of a rollout: their mean number × a step, which launches of kernels decide."""
    sampling = at.card.dit_sampling if at.card else None
    measured = at.measured_dit
    if sampling is None or measured is None or at.denoiser is None:
        return None
    layers = at.denoiser.layers / measured.layers
    return mean_rollout_steps(most) * sampling.ms / 1000 * layers


def mean_rollout_steps(most: int) -> float:
    """Return the mean number of steps that `training.end_to_end.rollout.draw_rollout_steps` draws to be done."""
    if most == 1:
        return 0.0
    draws = 1000
    steps = [min(most, int(2 * ((most + 1) / 2) ** ((draw + 0.5) / draws))) for draw in range(draws)]
    return sum(min(count - 1, 1 + (count - 2) / 2) for count in steps) / draws
