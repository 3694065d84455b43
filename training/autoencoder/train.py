"""Train the LoRA autoencoder in weight space: start at principal components, keep what validation people confirm.

A thousand LoRAs of 100,000 values or more are few: a free network soon overfits. Three things prevent it: it starts at
the quality of principal components (`LAE.fit`), it sees blends of two people instead of people (all teachers share one
initialization, so a blend is a plausible teacher), and the weights with the best validation are kept, even if they are
the initial ones.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout
from training.engine.evaluated_run import EvaluatedRun, History, compared_settings
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.store.loras import LoRAs, ShownReads, digest_of_loras, in_batches

from .config import LAETraining
from .reconstruction_metrics import check_diffusion_loss, evaluate
from .weight_space_objective import LAEObjective

MAX_BASELINE_SIZE = 2**28  # values of the principal components that a run is compared with, 1 GB


def train_lae(
    loras: LoRAs,
    validation: LoRAs,
    layout: LoRALayout,
    config: LAEConfig,
    training: LAETraining,
    folder: Path,
    accelerator: Accelerator | None = None,
    check: DiffusionLossCheck | None = None,
    identity: Mapping[str, Any] | None = None,
) -> tuple[LAE, History]:
    """Train an autoencoder, or resume; the state is folder/lae.safetensors.

    Args:
        loras: Of training people.
        validation: LoRAs of validation people.
        layout: Of all LoRAs.
        config: The autoencoder's shape.
        training: How it is trained.
        folder: Of the run.
        accelerator: Of the run, if the caller has one.
        check: By the base model's diffusion loss, in the process that has it.
        identity: What else a run is not resumed without, such as its people; JSON-ready.

    Returns:
        The frozen autoencoder, and the metrics of the start (beside them those of principal components with the same
        latent size, where these are not too large) and of every evaluation.

    Raises:
        ValueError: LoRAs that are not finite or zero; fewer than two; fewer than a batch; a folder with another run.
    """
    check_people(len(loras), len(validation))
    lae = new_lae(layout, config, training.loop.seed)
    objective = LAEObjective(lae, loras, training)
    settings = {
        "lae": asdict(config),
        "layout": layout.to_dict(),
        "training": compared_settings(training),
        "people": len(loras),
        "validation_people": len(validation),
        **(identity or {}),
        "LoRAs (hash)": digest_of_loras(loras, validation),
    }
    with EvaluatedRun(lae, objective, training.loop, training.evaluation, folder, "lae", settings, accelerator) as run:
        if run.is_new:
            with ShownReads(loras, "statistics of the LoRAs") as shown:
                lae.fit(shown)
            metrics = evaluate(lae, validation, training.losses)
            if layout.numel * config.tokens * config.width <= MAX_BASELINE_SIZE:
                metrics |= {f"pca_{name}": value for name, value in evaluate_pca(loras, validation, lae).items()}
            if check:
                metrics |= check_diffusion_loss(lae, check)
            run.record(0, metrics)
        for step in run:
            metrics = evaluate(lae, validation, training.losses)
            if check and check.is_due(len(run.history)):
                metrics |= check_diffusion_loss(lae, check)
            run.record(step, metrics)
        run.load_best()
    lae.fit_latents(batch.to(lae.mean.device) for batch in in_batches(loras, title="statistics of the latents"))
    return lae.eval().requires_grad_(False), run.history


def new_lae(layout: LoRALayout, config: LAEConfig, seed: int) -> LAE:
    """Make an untrained autoencoder, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(seed)
        return LAE(layout, config)


def evaluate_pca(loras: LoRAs, validation: LoRAs, lae: LAE) -> dict[str, float]:
    """Evaluate principal components with the latent size of an autoencoder."""
    baseline = LAE(lae.layout, LAEConfig(kind="linear", tokens=lae.config.tokens, width=lae.config.width))
    with ShownReads(loras, "principal components") as shown:
        baseline.fit(shown)
    return evaluate(baseline, validation)


def check_people(training: int, validation: int) -> None:
    """Check that there are enough people to train on and to validate with.

    Raises:
        ValueError: There are too few.
    """
    if training < 2:
        raise ValueError(f"the training split has {training} people: an autoencoder needs at least two, and many more")
    if not validation:
        raise ValueError(
            "the validation split is empty, so nothing could tell when to stop: pack the store with `pack.validation` "
            "above 0, and enough people that its share is at least one"
        )
