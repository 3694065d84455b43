"""Training a LoRA inside ComfyUI: its factors become parameters of the host's model, which otherwise stays frozen.

The mathematics is in `difflora_core.refinement`; here are the host's weights, conditions, memory and progress.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..difflora_core.refinement import LoRAFactors, RefinementSettings, diffusion_loss, refine
from .sockets import to_intermediate

CHECKPOINTED = ("ResBlock", "BasicTransformerBlock")
"""Classes of the host's U-Net that hold nearly all activations."""


def train_lora(
    model: Any,
    lora: Mapping[str, Tensor],
    conditioning: Any,
    latents: Tensor,
    size: tuple[int, int],
    settings: RefinementSettings,
    generator: torch.Generator,
    *,
    gradient_checkpointing: bool,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train a LoRA on images with the host's model; Interrupt takes effect before the next step.

    Args:
        model: ComfyUI's MODEL; it comes back as it was.
        lora: Where training starts, kohya names, every module of it in the model.
        conditioning: ComfyUI's CONDITIONING of the prompt.
        latents: (images, channels, h, w) as the VAE gives them.
        size: Height and width of the images in pixels, a condition of SDXL.
        settings: Steps, learning rate, batch size.
        generator: On the CPU; draws images, timesteps and noise.
        gradient_checkpointing: Keep only the inputs of the U-Net's blocks for the backward pass and compute the rest
            again.

    Returns:
        The trained LoRA under the same names, and the loss of every step.

    Raises:
        ValueError: The LoRA has no factors under kohya names, or the loss became NaN or infinite.
    """
    # The host runs nodes in inference mode, whose tensors no gradient can pass.
    with torch.inference_mode(False), torch.enable_grad():
        factors = LoRAFactors(lora, comfy.model_management.get_torch_device())
        model = with_trainable_lora(model, factors)
        if gradient_checkpointing:
            checkpoint_blocks(model)
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        progress = comfy.utils.ProgressBar(settings.steps)
        losses: list[float] = []
        try:
            base = HostModel(model.model, conditioning, latents.clone(), size)
            comfy.model_management.throw_exception_if_processing_interrupted()
            for loss in refine(factors, partial(base.loss, settings.batch_size, generator), settings):
                losses.append(loss)
                progress.update(1)
                comfy.model_management.throw_exception_if_processing_interrupted()
        finally:
            model.detach()  # the weight wrappers go with the clone: other users of the network do not meet them
        return {name: to_intermediate(tensor) for name, tensor in factors.tensors().items()}, losses


def with_trainable_lora(model: Any, factors: LoRAFactors) -> Any:
    """Clone a MODEL; the clone computes with each weight plus the factors' change of it."""
    trainable = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    for module in factors.modules:
        trainable.add_weight_wrapper(keys[module], partial(_add_delta_weight, factors, module))
    changed = {keys[module] for module in factors.modules}
    for key, weight in model.model.named_parameters():
        if key not in changed and weight.is_inference():
            trainable.add_weight_wrapper(key, torch.clone)
    return trainable


def _add_delta_weight(factors: LoRAFactors, module: str, weight: Tensor) -> Tensor:
    return weight + factors.delta_weight(module).to(weight.dtype).view(weight.shape)


def checkpoint_blocks(model: Any) -> None:
    """Switch on gradient checkpointing in the U-Net's blocks of a cloned MODEL."""
    for name, module in model.model.named_modules():
        if type(module).__name__ in CHECKPOINTED:
            recomputed = partial(checkpoint, module.forward, use_reentrant=False)
            model.add_object_patch(f"{name}.forward", recomputed)


class HostModel:
    """The host's network with one prompt, seen as the functions that `difflora_core.refinement` trains with."""

    def __init__(self, network: Any, conditioning: Any, latents: Tensor, size: tuple[int, int]) -> None:
        """Prepare latents and conditions; see `train_lora` for the arguments. network: the loaded MODEL's `model`."""
        device = comfy.model_management.get_torch_device()
        self.network = network
        self.latents = network.process_latent_in(latents.to(device))
        context, extra = conditioning[0]
        conditions = network.extra_conds(
            noise=self.latents[:1], device=device, cross_attn=context, height=size[0], width=size[1], **extra
        )
        self.conditions = {name: value.cond.clone().to(device) for name, value in conditions.items()}

    def loss(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Compute the diffusion loss of a random batch, a scalar."""
        velocity = isinstance(self.network.model_sampling, comfy.model_sampling.V_PREDICTION)
        return diffusion_loss(
            self.denoise,
            self.noise_levels,
            self.latents,
            batch_size,
            generator,
            prediction_type="v_prediction" if velocity else "epsilon",
        )

    def noise_levels(self, positions: Tensor) -> Tensor:
        """Return the host's σ (batch,) at positions in [0, 1) of its timestep range."""
        sampling = self.network.model_sampling
        return sampling.sigma(positions * (sampling.num_timesteps - 1))

    def denoise(self, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """Predict x0 (batch, channels, h, w) with the prompt's conditions."""
        batch = len(noisy)
        conditions = {name: value.repeat(batch, *(1,) * (value.ndim - 1)) for name, value in self.conditions.items()}
        return self.network.apply_model(noisy, sigmas, **conditions)
