"""Training a LoRA inside ComfyUI: its factors become parameters of the host's model, which otherwise stays frozen.

The mathematics is in `difflora_core.refinement`; here are the host's weights, conditions, memory and progress.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..difflora_core.config import RefinementSettings
from ..difflora_core.refinement import LoRAFactors, diffusion_loss, refine
from .patching.branches import has_branches
from .patching.lora_patches import fitting_patches
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
        ValueError: The LoRA has no factors under kohya names, a module of it cannot be trained or has more than
            factors, the loss became NaN or infinite, or the model has another LoRA beside its layers, or no discrete
            timesteps.
    """
    check_timesteps(model)
    if has_branches(model):
        raise ValueError(
            "the model has a LoRA beside its layers, which training would leave out: set `side` of its Apply LoRA to "
            "both, and `bypass` off"
        )
    # The host runs nodes in inference mode, whose tensors no gradient can pass.
    with torch.inference_mode(False), torch.enable_grad():
        factors = LoRAFactors(lora, comfy.model_management.get_torch_device())
        model = model.clone()
        if factors.fixed:  # part of what the LoRA is applied with afterwards
            model.add_patches(fitting_patches(model, factors.fixed)[0])
        if gradient_checkpointing:
            checkpoint_blocks(model)
        progress = comfy.utils.ProgressBar(settings.steps)
        losses: list[float] = []
        try:
            comfy.model_management.load_models_gpu([model], force_full_load=True)
            with trainable_lora(model.model, factors):
                base = HostModel(model.model, conditioning, latents.clone(), size)
                comfy.model_management.throw_exception_if_processing_interrupted()
                for loss in refine(factors, partial(base.loss, settings.batch_size, generator), settings):
                    if not losses:
                        check_gradients(factors)
                    losses.append(loss)
                    progress.update(1)
                    comfy.model_management.throw_exception_if_processing_interrupted()
        finally:
            model.detach()  # the checkpointed blocks go with the clone
        return {name: to_intermediate(tensor) for name, tensor in factors.tensors().items()}, losses


def check_timesteps(model: Any) -> None:
    """Check that a MODEL has discrete timesteps, each with its noise level.

    Raises:
        ValueError: It has not; the classes of its sampling are named.
    """
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        found = ", ".join(base.__name__ for base in type(sampling).__bases__)
        raise ValueError(
            f"the model has no discrete timesteps as SDXL (its sampling is ComfyUI's {found}); training needs them, "
            "so apply the LoRA without refining it"
        )


@contextmanager
def trainable_lora(network: Any, factors: LoRAFactors) -> Iterator[None]:
    """Let a loaded network compute with each weight plus the factors' change of it, until the context ends.

    The functions are put into the network's modules directly. A wrapper of the host's MODEL would be lost in modules
    that the host loads by another way: with dynamic VRAM those of at most 16 KiB.

    Args:
        network: The `model` of a loaded MODEL; other users of it do not run within the context.
        factors: Of modules of the network.

    Raises:
        ValueError: The network cannot change a weight of the LoRA while it computes; nothing is trained.
    """
    keys = comfy.lora.model_lora_keys_unet(network, {})
    changes = {keys[module]: partial(_add_delta_weight, factors, module) for module in factors.modules}
    attached: list[tuple[torch.nn.Module, str, list[Callable[[Tensor], Tensor]] | None]] = []
    try:
        for path, module in network.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                functions = f"{name}_function"
                if hasattr(module, functions):
                    attached.append((module, functions, module.__dict__.get(functions)))
                    function = changes.pop(f"{path}.{name}", _copy_frozen)
                    setattr(module, functions, [*getattr(module, functions), function])
        if changes:
            raise ValueError(
                f"ComfyUI's {type(network).__name__} cannot compute with a trainable LoRA at {len(changes)} of "
                f"{len(factors.modules)} weights, first {next(iter(changes))}; the LoRA is not refined"
            )
        yield
    finally:
        for module, functions, before in attached:
            if before is None:
                delattr(module, functions)  # back to the empty list of the class
            else:
                setattr(module, functions, before)


def check_gradients(factors: LoRAFactors) -> None:
    """Check after the first step that every factor takes part in training.

    Raises:
        ValueError: Names the first module with a factor that the loss does not depend on.
    """
    without = [name for name, factor in factors.parameters.items() if factor.grad is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(factors.parameters)} factors of the LoRA received no gradient, first "
            f"{without[0]}: ComfyUI does not compute with these weights, and the LoRA would be refined in part; no "
            "LoRA is returned"
        )


def _copy_frozen(weight: Tensor) -> Tensor:
    """Copy a weight: loaded in inference mode, it cannot be saved for the backward pass.

    Always, since a move by the host hides that from `Tensor.is_inference`.
    """
    return weight.detach().clone()


def _add_delta_weight(factors: LoRAFactors, module: str, weight: Tensor) -> Tensor:
    return weight.detach() + factors.delta_weight(module).to(weight.dtype).view(weight.shape)


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
