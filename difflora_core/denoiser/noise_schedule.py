"""The noise schedule of LoRA latents: what training adds, and the schedulers that sampling takes it away with.

The paper adds noise to the LoRA latent and lets the network predict the clean latent itself (x0), trained with a
reconstruction loss. The cosine schedule and min-SNR weighting are our choice.
"""

from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

from ..diffusion_loss import min_snr_weight, signal_to_noise
from .config import SCHEDULERS, TIMESTEPS

CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
}
"""Each of `SCHEDULERS`: diffusers' class and its options."""
UNEVEN_DDIM = (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 1})
"""DDIM for timesteps at unequal distances, which DPM-Solver++ of first order is (Lu et al. 2022, arXiv 2211.01095)."""


def make_scheduler(name: str, steps: int, device: torch.device | str = "cpu") -> Any:
    """Make a diffusers scheduler over 1000 timesteps of the cosine schedule with x0 prediction.

    Diffusers' DDIM steps down by 1000 // steps, whatever the distance to the next timestep: unless that is a whole
    number, each step would remove less noise than the next one assumes, and the last might leave some.

    For 62 numbers, 61 the first, floating-point rounding gives diffusers' trailing spacing one step more, at timestep
    -1, which no network was trained on. It is left out.

    Args:
        name: One of `SCHEDULERS`.
        steps: 1 to 1000, spaced "trailing": the first is at timestep 999.
        device: Of the timesteps.

    Raises:
        ValueError: There is no scheduler of this name.
    """
    if name not in CLASSES:
        raise ValueError(f"Schedulers are {', '.join(SCHEDULERS)}, found {name!r}.")
    kind, options = UNEVEN_DDIM if name == "ddim" and TIMESTEPS % steps else CLASSES[name]
    scheduler = kind(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        timestep_spacing="trailing",
        **options,
    )
    scheduler.set_timesteps(steps, device=device)
    if len(scheduler.timesteps) > steps:
        scheduler.timesteps = scheduler.timesteps[:steps]
        if hasattr(scheduler, "sigmas"):  # one for each timestep, and the last of no noise
            scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
    return scheduler


class NoiseSchedule(nn.Module):
    """Forward process: x_t = √ᾱ_t · x0 + √(1 − ᾱ_t) · ε with the cosine schedule."""

    alphas_cumprod: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", make_scheduler("ddim", TIMESTEPS).alphas_cumprod, persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noise clean latents (batch, tokens, width) to integer timesteps (batch,)."""
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1)
        return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise

    def weight(self, timesteps: Tensor, min_snr_gamma: float | None) -> Tensor:
        """Compute the loss weights (batch,) of x0 predictions: min(SNR, γ), or 1 without γ."""
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        return min_snr_weight(signal_to_noise(self.alphas_cumprod[timesteps]), min_snr_gamma, "sample")


def draw_timesteps(count: int, generator: torch.Generator, timestep_bias: float = 1.0) -> Tensor:
    """Draw timesteps (count,) int64; a `timestep_bias` > 1 draws high noise more often: there the person is decided."""
    uniform = torch.rand(count, generator=generator)
    return (uniform.pow(1.0 / timestep_bias) * TIMESTEPS).long().clamp_max(TIMESTEPS - 1)
