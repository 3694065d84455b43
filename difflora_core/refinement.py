"""Refinement: a few training steps on one person's images that start from a predicted LoRA.

This is DreamBooth (Ruiz et al. 2022, arXiv 2208.12242) without prior preservation, from a better start than a random
LoRA. The base model is given as functions, so that the same steps run on any implementation of it.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .config import RefinementSettings
from .diffusion_loss import PredictionType, stratified_positions, x0_error_weight
from .lora.tensor_names import parse

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
"""Endings of a module's tensors under kohya names."""
BESIDE_FACTORS = ("down", "up", "alpha", "bias")
"""What a module may have that is trained: anything else makes its change another than alpha / rank · up · down."""
BETAS = (0.9, 0.99)
"""Adam's decay rates: with the usual 0.999 the second moment would hardly settle within some dozens of steps."""

NoiseLevels = Callable[[Tensor], Tensor]
"""Positions (batch,) in [0, 1) of the timestep range → noise levels σ (batch,)."""
Denoise = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents x0 + σ·ε (batch, channels, height, width) and σ (batch,) → predicted x0, of the same shape."""


class LoRAFactors:
    """The factors of a LoRA as float32 parameters."""

    def __init__(self, lora: Mapping[str, Tensor | float], device: torch.device) -> None:
        """Copy the factors to the device.

        Args:
            lora: Tensors under kohya names, down (rank, in) and up (out, rank) for each module; those of convolutions
                may have axes of the kernel, and alphas may be plain numbers.
            device: Where the factors are trained.

        Raises:
            ValueError: No module has a down factor under a kohya name, or one has only one of the two factors, or more
                than factors (DoRA, LoCon's middle factor), or an alpha under another name than kohya's.
        """
        self.modules = sorted(key.removesuffix(DOWN) for key in lora if key.endswith(DOWN))
        """Names of the modules, as in the LoRA's keys."""
        if not self.modules:
            raise ValueError(
                "only LoRAs with kohya names can be trained further; this one's first tensor is "
                f"{next(iter(lora), 'missing')}"
            )
        ups = {key.removesuffix(UP) for key in lora if key.endswith(UP)}
        if halves := sorted(ups.symmetric_difference(self.modules)):
            has, lacks = ("an up", "down") if halves[0] in ups else ("a down", "up")
            raise ValueError(f"the LoRA has {has} factor but no {lacks} factor for {halves[0]}: the file is damaged")
        for key in lora:
            name = parse(key)
            if name.role == "alpha" and key != name.layer + ALPHA and name.layer + DOWN in lora:
                raise ValueError(
                    f"{key} is an alpha under another name than its factors, which ComfyUI ignores; expected "
                    f"{name.layer + ALPHA}: rename it, or leave it out"
                )
            if name.role not in BESIDE_FACTORS and name.layer + DOWN in lora:
                raise ValueError(
                    f"{key} makes the change of its module more than up · down ({name.method or name.role}), which "
                    "cannot be trained further: apply the LoRA without refining it"
                )
        self._lora = {key: torch.as_tensor(value) for key, value in lora.items()}
        own = {name + ending for name in self.modules for ending in (DOWN, UP, ALPHA)}
        self.fixed = {key: tensor for key, tensor in self._lora.items() if key not in own}
        """Tensors that are not trained: changes of biases, modules of other methods."""
        self.parameters = {
            name + role: torch.nn.Parameter(self._lora[name + role].detach().clone().to(device, torch.float32))
            for name in self.modules
            for role in (DOWN, UP)
        }
        """Each factor by its key."""

    def delta_weight(self, module: str) -> Tensor:
        """Compute the weight change ΔW = alpha / rank · up · down of a module; alpha = rank if not given.

        Returns:
            (out, in), of a convolution (out, in · kernel).
        """
        scale = 1.0
        if (alpha := self._lora.get(module + ALPHA)) is not None:
            scale = float(alpha) / self._lora[module + DOWN].shape[0]
        up, down = (self.parameters[module + role].flatten(1) for role in (UP, DOWN))
        return scale * (up @ down)

    def tensors(self) -> dict[str, Tensor]:
        """Copy the LoRA with its factors as they are now; all other tensors are as they were."""
        factors = {name: factor.detach().clone() for name, factor in self.parameters.items()}
        return {name: tensor.clone() for name, tensor in self._lora.items()} | factors


def diffusion_loss(
    denoise: Denoise,
    noise_levels: NoiseLevels,
    latents: Tensor,
    batch_size: int,
    generator: torch.Generator,
    *,
    prediction_type: PredictionType,
) -> Tensor:
    """Compute the diffusion loss of a random batch: the squared error of what the network itself predicts.

    Args:
        denoise: The base model with the LoRA.
        noise_levels: The base model's noise schedule.
        latents: Clean latents (images, channels, height, width) in the base model's own scaling.
        batch_size: How many images are drawn, with replacement.
        generator: On the CPU; it draws images, timesteps and noise, in this order.
        prediction_type: What the network predicts: ε, or v in a base model for zero terminal SNR.

    Returns:
        A scalar, with a gradient for whatever `denoise` depends on.
    """
    chosen = torch.randint(0, len(latents), (batch_size,), generator=generator)
    positions = stratified_positions(batch_size, generator)
    clean = latents[chosen.to(latents.device)]
    sigmas = noise_levels(positions.to(latents.device)).to(clean)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = clean + sigmas.view(-1, 1, 1, 1) * noise
    error = (denoise(noisy, sigmas).float() - clean.float()).square().mean(dim=(1, 2, 3))
    return (x0_error_weight(sigmas.float(), prediction_type) * error).mean()


def refine(factors: LoRAFactors, loss: Callable[[], Tensor], settings: RefinementSettings) -> Iterator[float]:
    """Train the factors with Adam; a step runs when its loss is requested, so a caller can stop between steps.

    The loss is scaled, because gradients of a base model in float16 are too small for it: of a mean over the 65,536
    values of an SDXL latent about 1e-6, where float16 has steps of 6e-8. Powers of two change nothing in float32. A
    step whose gradients are not finite with that scale is left out, and the scale is halved.

    Args:
        factors: Trained in place.
        loss: Computes the loss of a new batch with the present factors.
        settings: Steps and learning rate.

    Yields:
        The loss of every step, before its update.

    Raises:
        ValueError: The loss is NaN or infinite; the factors are those of the step before. Or it does not depend on the
            factors, or no step had finite gradients; they are unchanged.
    """
    scaler = torch.amp.GradScaler(next(iter(factors.parameters.values())).device.type)
    updates = 0
    optimizer = torch.optim.Adam(factors.parameters.values(), lr=settings.learning_rate, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(1, settings.steps + 1):
        value = loss()
        if not value.isfinite():
            raise ValueError(
                f"the loss is not finite at step {step} of {settings.steps}: lower `learning_rate`, or check the LoRA "
                "that training started from; no LoRA is returned"
            )
        if not value.requires_grad:
            raise ValueError(
                "the loss does not depend on the LoRA: the base model's packed weights (GGUF) compute without it; load "
                "the base model from a safetensors file; no LoRA is returned"
            )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scale = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= scale:
            schedule.step()
            updates += 1
        yield float(value.detach())
    if not updates:
        raise ValueError(
            f"the gradients were not finite in any of {settings.steps} steps: load the base model in bfloat16 or "
            "float32; no LoRA is returned"
        )
