"""Refine LoRA: a few training steps from the predicted LoRA on, with ComfyUI's own model, VAE and text encoders."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..difflora_core.encoders import picture_batch
from ..difflora_core.lora.file_formats import read_lora
from ..difflora_core.losses import denoising_weight
from .apply_lora import fitting_patches
from .pictures import loss_curve
from .sockets import CATEGORY, MadeLoRA, fingerprint, to_intermediate

BLOCKS = ("ResBlock", "BasicTransformerBlock")
"""Classes of the host's U-Net that hold nearly all activations."""
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


class RefineLoRA(io.ComfyNode):
    """Fine-tune a LoRA for a moment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRARefine",
            display_name="Refine LoRA",
            category=CATEGORY,
            description="Trains the LoRA on for some steps on the references: DreamBooth with a head start. "
            "Same modules, same rank. Seconds in the miniature, minutes for SDXL.",
            inputs=[
                io.Model.Input("model", tooltip="The base model, without the LoRA."),
                io.Clip.Input("clip", tooltip="The base model's text encoders."),
                io.Vae.Input("vae", tooltip="The base model's VAE."),
                io.LoraModel.Input("lora", tooltip="Where training starts: from Decode LoRA."),
                io.Image.Input("images", tooltip="Pictures of the person."),
                io.String.Input(
                    "prompt",
                    default="a portrait of a person",
                    tooltip="What every picture shows, with the class word.",
                ),
                io.Int.Input("steps", default=30, min=1, max=2000, tooltip="Training steps."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-3,
                    min=0.0,
                    max=0.1,
                    step=1e-5,
                    round=1e-6,
                    tooltip="Adam's step; falls to zero along a cosine.",
                ),
                io.Int.Input("batch", default=4, min=1, max=16, tooltip="Noisy pictures per step."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Decides noise and the order of pictures.",
                ),
                io.Boolean.Input(
                    "save_memory",
                    default=True,
                    tooltip="On: gradient checkpointing, less memory, about 40 percent more time, the same result.",
                ),
            ],
            outputs=[
                io.LoraModel.Output("refined", display_name="LORA_MODEL", tooltip="The refined LoRA."),
                io.Image.Output("curve", display_name="IMAGE", tooltip="The loss, step by step."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Mapping[str, Tensor],
        images: Tensor,
        prompt: str,
        steps: int,
        learning_rate: float,
        batch: int,
        seed: int,
        save_memory: bool,
    ) -> io.NodeOutput:
        """Train with a progress bar; Interrupt takes effect before the next step."""
        fitting_patches(model, lora)  # refuses what does not fit
        if not any(key.endswith(DOWN) for key in lora):
            raise ValueError(
                f"only LoRAs with kohya names can be trained on; this one's first tensor is {next(iter(lora))}"
            )
        images = picture_batch(images)
        latents = vae.encode(images)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        generator = torch.Generator().manual_seed(seed)
        # The host runs nodes in inference mode, whose tensors no gradient can pass
        with torch.inference_mode(False), torch.enable_grad():
            size = (images.shape[1], images.shape[2])
            trainer = Trainer(model, lora, conditioning, latents.clone(), size, save_memory)
            losses = trainer.train(steps, learning_rate, batch, generator)
            refined: Mapping[str, Tensor] = trainer.result()
        curve = loss_curve(losses)
        if isinstance(lora, MadeLoRA):
            settings = {"steps": steps, "learning_rate": learning_rate, "batch": batch, "seed": seed}
            made_by = {**lora.made_by, "refined": {**settings, "prompt": prompt, "references": fingerprint(images)}}
            refined = MadeLoRA(read_lora(refined, lora.layout), lora.layout, made_by)
        return io.NodeOutput(refined, to_intermediate(curve), ui=ui.PreviewImage(curve, cls=cls))


class Trainer:
    """One LoRA's factors as parameters of a model that is otherwise frozen."""

    def __init__(
        self,
        model: Any,
        lora: Mapping[str, Tensor],
        conditioning: Any,
        latents: Tensor,
        size: tuple[int, int],
        save_memory: bool,
    ) -> None:
        """latents: (pictures, channels, h, w) as the VAE gives them. size: height, width of the pictures.

        save_memory: keep only the inputs of the U-Net's blocks for the backward pass, and compute the rest again.
        """
        self.model, self.lora = model.clone(), lora
        self.device = comfy.model_management.get_torch_device()
        modules = sorted(key.removesuffix(DOWN) for key in lora if key.endswith(DOWN))
        self.factors = {
            name + role: torch.nn.Parameter(lora[name + role].detach().clone().to(self.device, torch.float32))
            for name in modules
            for role in (DOWN, UP)
        }
        places = comfy.lora.model_lora_keys_unet(model.model, {})
        for name in modules:
            self.model.add_weight_wrapper(places[name], self._add_change(name))
        wrapped = {places[name] for name in modules}
        for key, weight in model.model.named_parameters():
            if key not in wrapped and weight.is_inference():
                self.model.add_weight_wrapper(key, torch.clone)
        if save_memory:
            self._checkpoint_gradients()
        comfy.model_management.load_models_gpu([self.model], force_full_load=True)
        self.network = self.model.model
        self.latents = self.network.process_latent_in(latents.to(self.device))
        context, extra = conditioning[0]
        conditions = self.network.extra_conds(
            noise=self.latents[:1], device=self.device, cross_attn=context, height=size[0], width=size[1], **extra
        )
        self.conditions = {name: value.cond.clone().to(self.device) for name, value in conditions.items()}

    def _checkpoint_gradients(self) -> None:
        for name, module in self.model.model.named_modules():
            if type(module).__name__ in BLOCKS:
                recomputed = partial(checkpoint, module.forward, use_reentrant=False)
                self.model.add_object_patch(f"{name}.forward", recomputed)

    def _add_change(self, name: str) -> Any:
        scale = 1.0
        if (alpha := self.lora.get(name + ALPHA)) is not None:
            scale = float(alpha) / self.lora[name + DOWN].shape[0]

        def function(weight: Tensor) -> Tensor:
            change = scale * (self.factors[name + UP] @ self.factors[name + DOWN])
            return weight + change.to(weight.dtype).view(weight.shape)

        return function

    def train(self, steps: int, learning_rate: float, batch: int, generator: torch.Generator) -> list[float]:
        """Losses of all steps."""
        optimizer = torch.optim.Adam(self.factors.values(), lr=learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        progress = comfy.utils.ProgressBar(steps)
        losses: list[float] = []
        try:
            for _ in range(steps):
                comfy.model_management.throw_exception_if_processing_interrupted()
                loss = self.loss(batch, generator)
                if not loss.isfinite():
                    raise ValueError(
                        f"the loss is not finite at step {len(losses) + 1} of {steps}: lower `learning_rate`, or look "
                        "at the LoRA it started from; no LoRA comes out"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                progress.update(1)
        finally:
            self.model.detach()  # the wrappers go with the clone: other users of the network don't meet them
        return losses

    def loss(self, batch: int, generator: torch.Generator) -> Tensor:
        """Denoising loss on a random batch, timesteps spread evenly over the whole range."""
        sampling = self.network.model_sampling
        picks = torch.randint(0, len(self.latents), (batch,), generator=generator)
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        clean = self.latents[picks.to(self.device)]
        sigmas = sampling.sigma((strata * (sampling.num_timesteps - 1)).to(self.device)).to(clean)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy = sampling.noise_scaling(sigmas.view(-1, 1, 1, 1), noise, clean, False)
        conditions = {name: value.repeat(batch, *(1,) * (value.ndim - 1)) for name, value in self.conditions.items()}
        denoised = self.network.apply_model(noisy, sigmas, **conditions)
        velocity = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
        error = (denoised.float() - clean.float()).square().mean(dim=(1, 2, 3))
        return (denoising_weight(sigmas.float(), velocity) * error).mean()

    def result(self) -> dict[str, Tensor]:
        """The LoRA as it is now, with everything else as it came."""
        factors = {name: to_intermediate(factor.detach().clone()) for name, factor in self.factors.items()}
        return {name: tensor.clone() for name, tensor in self.lora.items()} | factors
