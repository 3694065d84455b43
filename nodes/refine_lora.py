"""Refine LoRA: a few training steps that start from a predicted LoRA, with ComfyUI's model, VAE and text encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.config import RefinementSettings
from ..difflora_core.images import image_batch
from ..difflora_core.lora.file_formats import read_lora
from ..difflora_core.lora.lora import LoRA
from .input_checks import takes_lists
from .patching.lora_patches import fitting_patches
from .preview_images import loss_curve
from .refine_training import train_lora
from .sockets import CATEGORY, hash_tensors, node_schema, to_intermediate

MIN_SIDE = 64
"""Least side in pixels of an image: a VAE makes an eighth of it, which the U-Net makes smaller again."""


class RefineLoRA(io.ComfyNode):
    """Train a LoRA for a few steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRARefine",
            display_name="Refine LoRA",
            category=CATEGORY,
            description="Trains the LoRA for some further steps on reference images, as DreamBooth does. "
            "Modules and rank stay the same. Takes seconds in the miniature, minutes for SDXL.",
            is_input_list=True,  # else a list of images would be so many trainings on one image each
            advanced=["batch_size", "gradient_checkpointing"],
            search_aliases=["DreamBooth", "train LoRA", "fine-tune", "likeness", "personalize"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model, without the LoRA."),
                io.Clip.Input("clip", tooltip="The base model's text encoders."),
                io.Vae.Input("vae", tooltip="The base model's VAE."),
                io.LoraModel.Input("lora", tooltip="The LoRA that training starts from, for example from Decode LoRA."),
                io.Image.Input(
                    "images", tooltip="Images of the person, all of one size: a batch or a list. All are used."
                ),
                io.String.Input(
                    "prompt",
                    default="a portrait of a person",
                    tooltip="Caption of all images; it contains the class word, for example person.",
                ),
                io.Int.Input("steps", default=RefinementSettings.steps, min=1, max=2000, tooltip="Training steps."),
                io.Float.Input(
                    "learning_rate",
                    default=RefinementSettings.learning_rate,
                    min=0.0,
                    max=0.1,
                    step=1e-5,
                    round=1e-6,
                    tooltip="Learning rate of Adam; decays to zero along a cosine.",
                ),
                io.Int.Input(
                    "batch_size", default=RefinementSettings.batch_size, min=1, max=16, tooltip="Noisy images per step."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Seed of images, timesteps and noise.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    tooltip="On: less memory, more time (40 percent in the miniature, 60 to 100 for SDXL's LoRAs), the "
                    "same result.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(
                    "refined",
                    display_name="LORA_MODEL",
                    tooltip="The refined LoRA; one for each candidate.",
                    is_output_list=True,
                ),
                io.Image.Output(
                    "curve", display_name="IMAGE", tooltip="Plot of the loss over the steps.", is_output_list=True
                ),
            ],
        )

    @classmethod
    @takes_lists("lora", "images")
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Sequence[Mapping[str, Tensor]],
        images: Sequence[Tensor],
        prompt: str,
        steps: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        gradient_checkpointing: bool,
    ) -> io.NodeOutput:
        """Train every LoRA with a progress bar; Interrupt takes effect before the next step."""
        check_checkpoint_parts(clip, vae)
        for candidate in lora:
            fitting_patches(model, candidate)  # raises an error if the LoRA does not fit
        batch = one_batch(images)
        settings = RefinementSettings(steps, learning_rate, batch_size)
        refinement = {**asdict(settings), "seed": seed, "prompt": prompt, "references": hash_tensors(batch)}
        conditioning, latents = clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), vae.encode(batch)
        refined, curves = [], []
        for candidate in lora:
            trained, losses = train_lora(
                model,
                candidate,
                conditioning,
                latents,
                (batch.shape[1], batch.shape[2]),
                settings,
                torch.Generator().manual_seed(seed),
                gradient_checkpointing=gradient_checkpointing,
            )
            refined.append(with_origin(candidate, trained, refinement))
            curves.append(loss_curve(losses))
        preview = ui.PreviewImage(torch.cat(curves), cls=cls)
        return io.NodeOutput(refined, list(map(to_intermediate, curves)), ui=preview)


def check_checkpoint_parts(clip: Any, vae: Any) -> None:
    """Check that there are text encoders and a VAE: Load Checkpoint gives none of a file without them.

    Raises:
        ValueError: One is missing.
    """
    for name, part in (("clip", clip), ("vae", vae)):
        if part is None:
            raise ValueError(
                f"`{name}` is empty, since the file of Load Checkpoint has none: load it with "
                f"{'Load CLIP' if name == 'clip' else 'Load VAE'}"
            )


def one_batch(images: Sequence[Tensor]) -> Tensor:
    """Join a list of images to one batch (images, height, width, 3).

    Raises:
        ValueError: They are of several sizes, or too small; or see `image_batch`.
    """
    batches = [image_batch(one) for one in images]
    sizes = {f"{batch.shape[2]} × {batch.shape[1]}": None for batch in batches}
    if len(sizes) > 1:
        raise ValueError(
            f"`images` are of {len(sizes)} sizes ({', '.join(sizes)} pixels), and are trained on in one: put Upscale "
            "Image with crop center before them"
        )
    height, width = batches[0].shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"`images` are of {width} × {height} pixels: training needs at least {MIN_SIDE} a side")
    return torch.cat(batches)


def with_origin(
    lora: Mapping[str, Tensor], trained: Mapping[str, Tensor], refinement: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Return a trained LoRA with layout and origin of the one that it started from, if that is known."""
    if not isinstance(lora, LoRA):
        return trained
    return LoRA(read_lora(trained, lora.layout), lora.layout, {**lora.made_by, "refined": refinement})
