"""Metrics of the LoRA autoencoder on people that it was not trained on."""

import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.lora.delta_weights import DeltaWeights
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.store.loras import LoRAs, in_batches

from .config import LossWeights
from .weight_space_objective import TERMS, Reconstruction


@torch.no_grad()
def evaluate(lae: LAE, loras: LoRAs, terms: LossWeights | None = None) -> dict[str, float]:
    """Measure how well LoRAs are reconstructed, without augmentation; a variational network decodes the mean.

    Args:
        lae: The autoencoder.
        loras: Of validation people.
        terms: Loss terms to report, beside R² and the cosine.

    Returns:
        `r2` of normalized LoRAs, `delta_w_cosine` of ΔW relative to the mean LoRA, and the terms by name; means over
        all people.
    """
    device, delta = lae.mean.device, DeltaWeights(lae.layout).to(lae.mean.device)
    error, size = 0.0, 0.0
    sums = dict.fromkeys(["delta_w_cosine", *(terms.active() if terms else ())], 0.0)
    for batch in in_batches(loras, title="validation"):
        batch = batch.to(device)
        target = lae.normalize(batch)
        predicted, mean, log_variance = lae(target)
        result = Reconstruction(lae, predicted, target, mean, log_variance)
        error += float((predicted - target).square().sum())
        size += float(target.square().sum())
        for name in sums:
            cosine = name == "delta_w_cosine"
            value = delta.cosine(result.flat[0], batch, lae.mean).mean() if cosine else TERMS[name](result, delta)
            sums[name] += float(value) * len(batch)
    return {"r2": 1 - error / size, **{name: total / len(loras) for name, total in sums.items()}}


@torch.no_grad()
def check_diffusion_loss(lae: LAE, check: DiffusionLossCheck) -> dict[str, float]:
    """Evaluate the teachers' reconstructions by the base model's diffusion loss."""
    rebuilt: list[Tensor] = [lae.decode(lae.encode(lora[None].to(lae.mean.device))).cpu() for lora in check.teachers]
    return check.metrics(torch.cat(rebuilt).float())
