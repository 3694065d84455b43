"""Metrics of MIF and DiT on people that they were not trained on."""

import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import TIMESTEPS
from difflora_core.denoiser.model import Denoiser
from difflora_core.lora.delta_weights import DeltaWeights
from training.people.conditions import People
from training.people.diffusion_loss_check import DiffusionLossCheck

PEOPLE_PER_BATCH = 64  # whose latents are predicted
LORAS_PER_BATCH = 8  # that are decoded: one of SDXL is 23 MB, and a decoder's activations are several times that
DRAWS = 4  # of noise, over which predictions are averaged


@torch.no_grad()
def predict_latents(model: Denoiser, people: People, references: int, draws: int = DRAWS) -> Tensor:
    """Predict x0 in one step from pure noise, the mean over some draws of noise.

    Args:
        model: MIF and DiT.
        people: Their conditions.
        references: Images of each person that are averaged.
        draws: Of noise, always the same.

    Returns:
        Latents (people, tokens, width) on the model's device.
    """
    device = model.mif.null.device
    face, image = (embedding.to(device) for embedding in people.conditions.first(references))
    condition, _ = model.mif(face, image)
    generator = torch.Generator().manual_seed(0)
    predicted = torch.zeros_like(people.latents, device=device)
    for _ in range(draws):
        noise = torch.randn(predicted.shape, generator=generator)
        for start in range(0, len(noise), PEOPLE_PER_BATCH):
            rows = slice(start, start + PEOPLE_PER_BATCH)
            last = torch.full((len(noise[rows]),), TIMESTEPS - 1, device=device)
            predicted[rows] += model.dit(noise[rows].to(device), last, condition[rows]) / draws
    return predicted


@torch.no_grad()
def evaluate(
    model: Denoiser, people: People, references: int, lae: LAE | None = None, draws: int = DRAWS
) -> dict[str, float]:
    """Measure predictions from pure noise, where only the condition identifies the person.

    Args:
        model: MIF and DiT.
        people: Of the validation split.
        references: Images of each person that are averaged.
        lae: Frozen, to compare ΔW; it needs `people.loras`.
        draws: Of noise.

    Returns:
        `r2` of the latents against their own size, so that the average person has 0; with an LAE also
        `delta_w_cosine` with the teachers' ΔW, both relative to the mean LoRA.
    """
    predicted = predict_latents(model, people, references, draws)
    latents = people.latents.to(predicted.device)
    metrics = {"r2": float(1 - (predicted - latents).square().sum() / latents.square().sum())}
    if lae is not None and people.loras is not None:
        lae, deltas = lae.to(predicted.device), DeltaWeights(lae.layout).to(predicted.device)
        cosines = [
            deltas.cosine(lae.decode(own), teachers.to(predicted.device, torch.float32), lae.mean)
            for own, teachers in zip(
                predicted[: len(people.loras)].split(LORAS_PER_BATCH), people.loras.split(LORAS_PER_BATCH), strict=True
            )
        ]
        metrics["delta_w_cosine"] = float(torch.cat(cosines).mean())
    return metrics


@torch.no_grad()
def check_diffusion_loss(
    model: Denoiser, people: People, references: int, lae: LAE, check: DiffusionLossCheck
) -> dict[str, float]:
    """Evaluate the LoRAs of predicted latents by the base model's diffusion loss."""
    latents = predict_latents(model, people, references)[check.rows]
    return check.metrics(lae.to(latents.device).decode(latents).cpu())
