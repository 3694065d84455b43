"""Sample LoRA and Decode LoRA: from features to a latent, and from a latent to a LoRA."""

from dataclasses import asdict

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..difflora_core.denoiser.config import SCHEDULERS, SamplingConfig
from ..difflora_core.lora.lora import LoRA
from .sockets import (
    CATEGORY,
    DiffLoRAModel,
    Features,
    Latent,
    LoadedDiffLoRA,
    LoRALatent,
    MixedFeatures,
    describe_sampling,
    node_schema,
    show_text,
    to_intermediate,
)

SETTINGS = ("recommended", "custom")
"""Whose sampling settings are used."""


class SampleLoRA(io.ComfyNode):
    """Sample LoRA latents by diffusion, with the features as condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRASample",
            display_name="Sample LoRA",
            category=CATEGORY,
            description="Samples a LoRA for the person by diffusion, with the settings that the checkpoint recommends, "
            "or your own.",
            has_intermediate_output=True,
            advanced=["temperature"],
            search_aliases=["identity", "portrait", "likeness", "generate LoRA", "InstantID", "variation"],
            inputs=[
                DiffLoRAModel.Input("model", tooltip="From Load DiffLoRA."),
                Features.Input("features", tooltip="From Mix Features."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="The same seed and features give the same LoRA.",
                ),
                io.Int.Input(
                    "steps",
                    default=SamplingConfig.steps,
                    min=1,
                    max=1000,
                    tooltip="With settings custom: denoising steps.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=SamplingConfig.guidance_scale,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="With settings custom: classifier-free guidance. Above 1 the features have more influence, "
                    "1 is no guidance.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default=SamplingConfig.scheduler,
                    tooltip="With settings custom: the diffusion sampler.",
                ),
                io.Int.Input(
                    "samples",
                    default=SamplingConfig.samples,
                    min=1,
                    max=64,
                    tooltip="With settings custom: latents averaged for each LoRA, more for stability, fewer for "
                    "variation.",
                ),
                io.Float.Input(
                    "latent_scale",
                    default=SamplingConfig.latent_scale,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="With settings custom: scale of the latent. 0 is the average person, 1 as predicted, above "
                    "1 exaggerates.",
                ),
                io.Int.Input(
                    "candidates",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Number of LoRAs, with seed, seed + 1, …; the nodes that follow run once for each.",
                ),
                io.Combo.Input(
                    "settings",
                    options=list(SETTINGS),
                    default="recommended",
                    optional=True,  # workflows that were saved without it have settings of their own
                    tooltip="recommended: steps, guidance, scheduler, samples, latent scale and temperature are the "
                    "checkpoint's, which the node shows. custom: those of the widgets.",
                ),
                io.Float.Input(
                    "temperature",
                    default=SamplingConfig.temperature,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,  # workflows that were saved without it have none
                    tooltip="With settings custom: how much candidates differ. 0: hardly, 1: as much as people differ "
                    "from one another.",
                ),
            ],
            outputs=[Latent.Output("latent", display_name="DIFFLORA_LATENT", tooltip="For Decode LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedDiffLoRA,
        features: MixedFeatures,
        seed: int,
        steps: int,
        guidance_scale: float,
        scheduler: str,
        samples: int,
        latent_scale: float,
        candidates: int,
        settings: str = "custom",
        temperature: float = SamplingConfig.temperature,
    ) -> io.NodeOutput:
        """Sample with a progress bar; Interrupt takes effect before the next step."""
        check_checkpoint(model, features.checkpoint, "features")
        sampling = SamplingConfig(steps, guidance_scale, scheduler, samples, latent_scale, temperature)
        if settings == "recommended":
            sampling = model.difflora.config.sampling
        progress = comfy.utils.ProgressBar(sampling.steps)

        def before_step(step: int, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(step, steps)

        seeds = [(seed + number) % 2**63 for number in range(candidates)]
        used = asdict(sampling)
        latents = model.on_device().sample(
            features.condition.expand(candidates, -1),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback=before_step,
            **used,
        )
        progress.update_absolute(sampling.steps)
        made_by = tuple({"seed": seed, **used, "references": features.references} for seed in seeds)
        description = f"{settings}: {describe_sampling(sampling)}"
        show_text(description, cls.hidden.unique_id)
        latent = LoRALatent(to_intermediate(latents), model.name, made_by, model.autoencoder)
        return io.NodeOutput(latent, ui=ui.PreviewText(description))


class DecodeLoRA(io.ComfyNode):
    """Decode latents into ordinary LoRAs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRADecode",
            display_name="Decode LoRA",
            category=CATEGORY,
            description="Decodes a latent into an ordinary LoRA, for any node with a LORA_MODEL input.",
            search_aliases=["latent to LoRA", "generate LoRA", "make LoRA", "character", "person"],
            inputs=[
                DiffLoRAModel.Input("model", tooltip="The model that the latent was made with."),
                Latent.Input("latent", tooltip="From Sample LoRA, Encode LoRA, Load Identity or Blend Latents."),
            ],
            outputs=[
                io.LoraModel.Output(
                    "lora",
                    display_name="LORA_MODEL",
                    is_output_list=True,
                    tooltip="A LoRA with kohya names; one for each candidate.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: LoadedDiffLoRA, latent: LoRALatent) -> io.NodeOutput:
        """Decode every candidate; the results are ComfyUI's own LORA_MODEL, dicts of tensors."""
        check_latent(model, latent)
        flat = to_intermediate(model.on_device().decode(latent.latents))
        layout = model.difflora.layout
        loras = [
            LoRA(row, layout, {**made, "checkpoint": model.name})
            for row, made in zip(flat, latent.made_by, strict=True)
        ]
        return io.NodeOutput(loras)


def check_latent(model: LoadedDiffLoRA, latent: LoRALatent) -> None:
    """Check that a latent was made with the same autoencoder, by which alone it can be decoded.

    Raises:
        ValueError: It was not; what to do is said.
    """
    if latent.is_compatible_with(model.name, model.autoencoder):
        return
    if latent.checkpoint == model.name:
        raise ValueError(
            f"the input `latent` was made with another version of {model.name}, whose autoencoder has been trained "
            "again since then: make the person's latent again from the reference images, or put the former file back"
        )
    check_checkpoint(model, latent.checkpoint, "latent")


def check_checkpoint(model: LoadedDiffLoRA, made_with: str, what: str) -> None:
    """Check that an input was made with the same checkpoint: its values mean something else to another one.

    Raises:
        ValueError: Names both checkpoints.
    """
    if made_with != model.name:
        raise ValueError(
            f"the input `{what}` was made with {made_with}, but is used with {model.name}: choose {made_with} in "
            "Load DiffLoRA, and connect both nodes to it"
        )
