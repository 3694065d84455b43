"""Train MIF and DiT on the latents of a frozen LAE.

There are two inputs: the latents of the teachers, and the frozen encoders' embeddings of many images of each person.
While training, random images of a person are averaged into the condition, as at inference, so that the network sees
one image as well as many (paper: images of the same person are sampled at random).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from training.engine import accelerator as engine_accelerator
from training.engine.config import TrainConfig
from training.engine.evaluated_run import EvaluatedRun, History
from training.people.conditions import People
from training.people.diffusion_loss_check import DiffusionLossCheck

from .config import DiffLoRATraining
from .latent_space_objective import LatentObjective
from .prediction_metrics import check_diffusion_loss, evaluate


def train_denoiser(
    people: People,
    validation: People,
    dit: DiTConfig,
    mif: MIFConfig,
    training: DiffLoRATraining,
    folder: Path,
    lae: LAE | None = None,
    identity: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
    check: DiffusionLossCheck | None = None,
) -> tuple[Denoiser, History]:
    """Train, or resume; keep the weights that predict validation people best. The state is folder/difflora.safetensors.

    A thousand people are few: only other people can tell how long a network may train on them.

    Args:
        people: To train on.
        validation: Other people.
        dit: The DiT's shape.
        mif: MIF's shape.
        training: How they are trained.
        folder: Of the run.
        lae: Frozen, for the ΔW terms and for evaluating ΔW.
        identity: What a run is not resumed without, such as its settings and people; JSON-ready.
        accelerator: Of the run, if the caller has one.
        check: By the base model's diffusion loss, in the process that has it; needs the LAE.

    Returns:
        The networks, and the metrics of every evaluation.
    """
    objective = LatentObjective(people, training, lae, mif.mode)
    model = new_denoiser(dit, mif, training)
    references, loop = training.validation_references, loop_config(training)
    with EvaluatedRun(model, objective, loop, training.evaluation, folder, "difflora", identity, accelerator) as run:
        for step in run:
            metrics = evaluate(model.eval(), validation, references, lae)
            if check and lae and check.is_due(len(run.history) + 1):
                metrics |= check_diffusion_loss(model, validation, references, lae, check)
            run.record(step, metrics)
        run.load_best()
    return model, run.history


def new_denoiser(dit: DiTConfig, mif: MIFConfig, training: DiffLoRATraining) -> Denoiser:
    """Make untrained networks, the same for the same seed.

    For `regression` the layer that takes the noisy latent starts at zero and stays there, because its input is zero
    while training: so the trained network gives the same x0 from any noise, and sampling in one step without guidance
    (`SamplingConfig(steps=1, guidance_scale=1, samples=1)`) is the regression.
    """
    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(training.loop.seed)
        model = Denoiser(dit, mif)
    if training.objective == "regression":
        nn.init.zeros_(model.dit.embed.weight)
    model.dit.gradient_checkpointing = training.gradient_checkpointing
    if training.loop.compile:
        model.dit.compile_blocks(backend=engine_accelerator.COMPILER)
    return model


def loop_config(training: DiffLoRATraining) -> TrainConfig:
    """Return the configuration for the loop.

    Modality dropout leaves parameters without a gradient, and the DiT's blocks are compiled already.
    """
    return replace(training.loop, unused_parameters=True, compile=False)
