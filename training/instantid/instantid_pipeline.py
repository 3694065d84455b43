"""Images of one person from prompts: InstantID on diffusers' own SDXL ControlNet pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflora_core.fields import NonNegativeFloat, check_fields
from training.base_model.sdxl import SDXLBase

from .instantid_files import InstantID


@dataclass(frozen=True)
class Strengths:
    """How strongly the face acts."""

    adapter: NonNegativeFloat = 0.8
    """Of the face's tokens in the U-Net's cross-attention."""
    control: NonNegativeFloat = 0.8
    """Of IdentityNet."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Sampler:
    """How images are sampled."""

    size: int
    """Pixels of a side."""
    steps: int
    """Of the scheduler."""
    guidance_scale: float
    """Of classifier-free guidance."""


class InstantIDPipeline:
    """A base model with InstantID's adapter in its U-Net, and IdentityNet."""

    def __init__(self, base: SDXLBase, instantid: InstantID) -> None:
        """Put the adapter into the base model's U-Net.

        Args:
            base: Its U-Net is changed.
            instantid: Of `read_instantid`.

        Raises:
            ValueError: The files are for another base model.
        """
        from diffusers import StableDiffusionXLControlNetPipeline

        instantid.check(base.unet)
        self.base = base
        self.identity_net = instantid.identity_net().to(base.device, base.dtype)
        parts = {name: part for name, part in base.pipeline.components.items() if part is not None}
        self.pipeline: Any = StableDiffusionXLControlNetPipeline(
            **parts,
            controlnet=self.identity_net,
            force_zeros_for_empty_prompt=base.pipeline.config.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        adapter = {part: dict(tensors) for part, tensors in instantid.adapter.items()}
        self.pipeline.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)

    def tokens(self, embeddings: Tensor) -> Tensor:
        """Turn face embeddings (n, width), as the recognizer gives them, into tokens (n, tokens, width of the text).

        Raises:
            ValueError: The embeddings are of another recognizer's width.
        """
        resampler = self.base.pipeline.unet.encoder_hid_proj.image_projection_layers[0]
        if embeddings.shape[1] != resampler.proj_in.in_features:
            raise ValueError(
                f"InstantID takes face embeddings of width {resampler.proj_in.in_features}, found "
                f"{embeddings.shape[1]}: `face_pack` names the pack that it was trained with"
            )
        return resampler(embeddings[:, None])

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        negative: str,
        embedding: Tensor,
        keypoints: Sequence[np.ndarray],
        generators: Sequence[torch.Generator],
        sampler: Sampler,
        strengths: Strengths,
    ) -> Tensor:
        """Generate images (n, 3, size, size) float32 in [0, 1].

        Args:
            prompts: One for each image.
            negative: The negative prompt; without one, the base model's own way of an empty text.
            embedding: Of the person (width,).
            keypoints: A picture of keypoints for each image, uint8 (size, size, 3).
            generators: Of each image's noise.
            sampler: Size, steps, guidance.
            strengths: Of the face.
        """
        base, count = self.base, len(prompts)
        faces = embedding.to(base.device, base.dtype).expand(count, -1)
        if sampler.guidance_scale > 1.0:  # as the pipeline decides it
            faces = torch.cat([torch.zeros_like(faces), faces])
        self.identity_net.face_tokens = self.tokens(faces)
        self.pipeline.set_ip_adapter_scale(strengths.adapter)
        images = torch.from_numpy(np.stack(keypoints)).permute(0, 3, 1, 2).float() / 255.0
        latents = self.pipeline(
            list(prompts),
            image=images,
            height=sampler.size,
            width=sampler.size,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            negative_prompt=[negative] * count if negative else None,
            ip_adapter_image_embeds=[faces[:, None, None]],
            controlnet_conditioning_scale=float(strengths.control),
            generator=list(generators),
            output_type="latent",
        ).images
        return torch.cat([base.decode(latent).cpu() for latent in latents.split(1)])
