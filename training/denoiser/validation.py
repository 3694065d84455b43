"""MIF and DiT as the one module that is trained, and what validation asks it."""

import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import TIMESTEPS
from difflora_core.denoiser.model import Denoiser
from difflora_core.losses import DeltaWeights
from training.engine.rounds import Figures
from training.people.conditions import People

PEOPLE_AT_ONCE = 64  # whose latents validation predicts
LORAS_AT_ONCE = 8  # that validation decodes: one of SDXL is 23 MB, and a decoder's activations are several times that


@torch.no_grad()
def predict_latents(model: Denoiser, people: People, references: int, draws: int = 4) -> Tensor:
    """x0 predicted in one step from pure noise, mean over `draws` noises: (people, tokens, width)."""
    device = model.mif.null.device
    face, image = (embedding.to(device) for embedding in people.conditions.first(references))
    condition, _ = model.mif(face, image)
    generator = torch.Generator().manual_seed(0)
    predicted = torch.zeros_like(people.latents, device=device)
    for _ in range(draws):
        noise = torch.randn(predicted.shape, generator=generator)
        for at in range(0, len(noise), PEOPLE_AT_ONCE):
            rows = slice(at, at + PEOPLE_AT_ONCE)
            last = torch.full((len(noise[rows]),), TIMESTEPS - 1, device=device)
            predicted[rows] += model.dit(noise[rows].to(device), last, condition[rows]) / draws
    return predicted


@torch.no_grad()
def validate(model: Denoiser, people: People, references: int, draws: int = 4, lae: LAE | None = None) -> Figures:
    """R² of x0 predicted from pure noise, where only the condition knows the person.

    Against the latents' own size, so the average person has 0. The prediction is averaged over `draws` noises. With an
    LAE, and the people's LoRAs, also the cosine of ΔW with the teacher's, both relative to the mean LoRA.
    """
    predicted = predict_latents(model, people, references, draws)
    latents = people.latents.to(predicted.device)
    figures = {"r2": float(1 - (predicted - latents).square().sum() / latents.square().sum())}
    if lae is not None and people.loras is not None:
        lae, deltas = lae.to(predicted.device), DeltaWeights(lae.layout).to(predicted.device)
        cosines = [
            deltas.cosine(lae.decode(made), teachers.to(predicted.device, torch.float32), lae.mean)
            for made, teachers in zip(
                predicted[: len(people.loras)].split(LORAS_AT_ONCE), people.loras.split(LORAS_AT_ONCE), strict=True
            )
        ]
        figures["delta_w_cosine"] = float(torch.cat(cosines).mean())
    return figures
