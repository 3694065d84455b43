"""Refine LoRA: a few training steps from the predicted LoRA on, with ComfyUI's own model, VAE and text encoders."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.images import picture_batch
from ..difflora_core.lora.file_formats import read_lora
from ..difflora_core.refinement import RefinementSettings
from .apply_lora import fitting_patches
from .preview_images import loss_curve
from .refine_training import train_lora
from .sockets import CATEGORY, MadeLoRA, fingerprint, to_intermediate


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
                io.Int.Input("batch_size", default=4, min=1, max=16, tooltip="Noisy pictures per step."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Decides noise and the order of pictures.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
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
        batch_size: int,
        seed: int,
        gradient_checkpointing: bool,
    ) -> io.NodeOutput:
        """Train with a progress bar; Interrupt takes effect before the next step."""
        fitting_patches(model, lora)  # refuses what does not fit
        images = picture_batch(images)
        settings = RefinementSettings(steps, learning_rate, batch_size)
        refined, losses = train_lora(
            model,
            lora,
            clip.encode_from_tokens_scheduled(clip.tokenize(prompt)),
            vae.encode(images),
            (images.shape[1], images.shape[2]),
            settings,
            torch.Generator().manual_seed(seed),
            gradient_checkpointing=gradient_checkpointing,
        )
        curve = loss_curve(losses)
        result: Mapping[str, Tensor] = refined
        if isinstance(lora, MadeLoRA):
            refinement = {**asdict(settings), "seed": seed, "prompt": prompt, "references": fingerprint(images)}
            result = MadeLoRA(read_lora(refined, lora.layout), lora.layout, {**lora.made_by, "refined": refinement})
        return io.NodeOutput(result, to_intermediate(curve), ui=ui.PreviewImage(curve, cls=cls))
