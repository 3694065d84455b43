"""Train end to end with the frozen base model's diffusion loss: first the autoencoder, later MIF and DiT, or all.

Autoencoder, and MIF and DiT, start from networks that were trained in weight space or latent space, and keep a share of
that loss, so that latents keep their meaning; joint training starts from nothing. What decides is the frozen
base model, on the people's own images. The paper has no such stage; it is ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.loss_reduction import LossReduction
from training.base_model.person_images import PersonImages
from training.base_model.teacher_recovery import TeacherRecovery
from training.engine.evaluated_run import EvaluatedRun, History, compared_settings
from training.lora_dataset.fingerprints import hash_weights
from training.store.loras import LoRAs, in_batches

from .config import DenoiserFinetuning, JointTraining, LAEFinetuning
from .joint_objective import JointNetwork, JointObjective
from .objectives import DenoiserEndToEndObjective, FinetuneDataset, LAEEndToEndObjective
from .recovery_metrics import reconstruction_recovery, recovery_by_steps


def finetune_lae(
    lae: LAE,
    loras: LoRAs,
    images: Sequence[PersonImages],
    validation: Tensor,
    diffusion_loss: LoRADiffusionLoss,
    recovery: TeacherRecovery,
    config: LAEFinetuning,
    folder: Path,
    name: str,
    accelerator: Accelerator | None = None,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Fine-tune an autoencoder in place, or resume; then standardize its latents anew.

    Args:
        lae: On its device; its weights are made trainable.
        loras: Of training people.
        images: Of the same people, in the same order.
        validation: LoRAs of validation people (people, numel).
        diffusion_loss: Through the frozen base model.
        recovery: Of the validation people.
        config: How it is trained.
        folder: Of the run.
        name: Of the run.
        accelerator: Of the run, if the caller has one.
        identity: What else a run is not resumed without, such as its people; JSON-ready.

    Returns:
        Teacher recovery before, and at every evaluation.

    Raises:
        ValueError: The folder holds a run with other settings or people, or from another network.
    """
    lae.train().requires_grad_(True)
    objective = LAEEndToEndObjective(lae, loras, images, diffusion_loss, config)
    settings = compared_settings(config) | {"starting network": hash_weights(lae)} | dict(identity or {})
    with EvaluatedRun(lae, objective, config.loop, config.evaluation, folder, name, settings, accelerator) as run:
        if run.is_new:
            run.record(0, {recovery.metric: reconstruction_recovery(recovery, lae, validation)})
        for step in run:
            run.record(step, {recovery.metric: reconstruction_recovery(recovery, lae, validation)})
        run.load_best()
    lae.fit_latents(batch.to(lae.mean.device) for batch in in_batches(loras, title="statistics of the latents"))
    lae.eval().requires_grad_(False)
    return run.history


def finetune_denoiser(
    denoiser: Denoiser,
    lae: LAE,
    dataset: FinetuneDataset,
    validation: tuple[Tensor, Tensor],
    diffusion_loss: LoRADiffusionLoss,
    recovery: TeacherRecovery,
    config: DenoiserFinetuning,
    folder: Path,
    name: str,
    accelerator: Accelerator | None = None,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Fine-tune MIF and DiT in place, or resume.

    Args:
        denoiser: On its device.
        lae: Frozen, on the same device.
        dataset: Training people.
        validation: Face and image embeddings (people, width) of validation people.
        diffusion_loss: Through the frozen base model.
        recovery: Of the validation people.
        config: How they are trained.
        folder: Of the run.
        name: Of the run.
        accelerator: Of the run, if the caller has one.
        identity: What else a run is not resumed without, such as its people; JSON-ready.

    Returns:
        Teacher recovery before, and at every evaluation.

    Raises:
        ValueError: The folder holds a run with other settings or people, or from other networks.
    """
    objective = DenoiserEndToEndObjective(denoiser, lae, dataset, diffusion_loss, config)
    start = {"starting network": hash_weights(denoiser), "starting network's LAE": hash_weights(lae)}
    settings = compared_settings(config) | start | dict(identity or {})
    with EvaluatedRun(denoiser, objective, config.loop, config.evaluation, folder, name, settings, accelerator) as run:
        if run.is_new:
            run.record(0, recovery_by_steps(recovery, lae, denoiser, validation))
        for step in run:
            run.record(step, recovery_by_steps(recovery, lae, denoiser, validation))
        run.load_best()
    return run.history


def train_joint(
    network: JointNetwork,
    objective: JointObjective,
    references: tuple[Tensor, Tensor],
    evaluation: LossReduction,
    config: JointTraining,
    folder: Path,
    name: str,
    accelerator: Accelerator | None = None,
    teachers: tuple[TeacherRecovery, Tensor] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Train MIF, DiT and LAE together in place, or resume.

    Args:
        network: On its device.
        objective: The loss of training people.
        references: Face and image embeddings (people, width) of validation people.
        evaluation: Of the same people.
        config: How all are trained.
        folder: Of the run.
        name: Of the run.
        accelerator: Of the run, if the caller has one.
        teachers: Validation people's teachers (people, numel), and their recovery.
        identity: What else a run is not resumed without, such as its people; JSON-ready.

    Returns:
        Loss reduction, or teacher recovery, before, and at every evaluation; with teachers `reconstruction_recovery`.
    """

    def evaluate() -> dict[str, float]:
        metrics = recovery_by_steps(evaluation, network.lae, network.denoiser, references)
        if teachers is not None:
            recovery, loras = teachers
            metrics["reconstruction_recovery"] = reconstruction_recovery(recovery, network.lae, loras)
        return metrics

    network.train().requires_grad_(True)
    settings = compared_settings(config) | dict(identity or {})
    with EvaluatedRun(network, objective, config.loop, config.evaluation, folder, name, settings, accelerator) as run:
        if run.is_new:
            run.record(0, evaluate())
        for step in run:
            run.record(step, evaluate())
        run.load_best()
    network.eval().requires_grad_(False)
    return run.history
