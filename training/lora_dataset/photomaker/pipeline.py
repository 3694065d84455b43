"""Images of one person from prompts: PhotoMaker on diffusers' SDXL pipeline, with delayed merging.

Prompts are embedded here and passed to the pipeline, which keeps its own sampling loop, schedulers and guidance; when
the style's steps are over, its callback replaces the plain embeddings by the fused ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from training.base_model.sdxl import SDXLBase

from .class_word import MAX_TOKENS, repeat_class_word
from .photomaker_file import PhotoMaker, merge_lora, read_photomaker, read_unet_lora


@dataclass(frozen=True)
class Text:
    """SDXL's text conditioning."""

    context: Tensor
    """(prompts, 77, width of both encoders)."""
    pooled: Tensor
    """(prompts, width of the second encoder)."""


@dataclass(frozen=True)
class Sampling:
    """How images are sampled."""

    size: int = 1024
    """Pixels of a side."""
    steps: int = 30
    """Of the scheduler."""
    guidance_scale: float = 5.0
    """Of classifier-free guidance."""
    style_strength: int = 20
    """Percentage of the steps before the identity is merged in, 0 to 100."""

    def __post_init__(self) -> None:
        if not 0 <= self.style_strength <= 100:
            raise ValueError(f"style_strength is a percentage, found {self.style_strength}")
        if self.size < 8 or self.size % 8 or self.steps < 1:
            raise ValueError(f"expected a size divisible by 8 and at least one step, found {self.size}, {self.steps}")


class PhotoMakerPipeline:
    """SDXL with PhotoMaker's LoRA merged into the U-Net, and the identity encoder."""

    def __init__(self, base: SDXLBase, photomaker: PhotoMaker) -> None:
        """Merge PhotoMaker's LoRA into the base model's U-Net.

        Args:
            base: Its U-Net's weights are changed.
            photomaker: Of `read_photomaker`.

        Raises:
            ValueError: The file was made for text encoders or a U-Net of other sizes.
        """
        pipeline = base.pipeline
        widths = (pipeline.text_encoder.config.hidden_size, pipeline.text_encoder_2.config.hidden_size)
        if photomaker.encoder.projections != widths:
            raise ValueError(
                f"PhotoMaker was made for text encoders {photomaker.encoder.projections} wide, the base model's are "
                f"{widths} wide"
            )
        merge_lora(pipeline.unet, *read_unet_lora(photomaker.lora, pipeline.unet))
        self.base, self.pipeline = base, pipeline
        self.encoder = photomaker.encoder.to(base.device)

    @classmethod
    def open(cls, base: Path, file: Path, device: str = "cpu", lcm_lora: Path | None = None) -> Self:
        """Load SDXL from a diffusers folder: float32 on a CPU, elsewhere bfloat16 with the autoencoder in float32.

        Args:
            base: The folder.
            file: PhotoMaker's.
            device: As torch names it.
            lcm_lora: A safetensors file; with it the scheduler is LCM's.

        Raises:
            FileNotFoundError: A file or folder does not exist.
            ValueError: The base is not SDXL, or the file is not PhotoMaker's.
        """
        photomaker = read_photomaker(file)  # before the base model, which takes long
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        opened = cls(SDXLBase.open(base, device, dtype), photomaker)
        if lcm_lora is not None:
            opened._add_lcm(lcm_lora)
        return opened

    def _add_lcm(self, path: Path) -> None:
        from diffusers import LCMScheduler

        if path.suffix != ".safetensors" or not path.is_file():
            raise FileNotFoundError(f"there is no LCM-LoRA {path}; expected a safetensors file")
        self.pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name="lcm", local_files_only=True, use_safetensors=True
        )
        self.pipeline.scheduler = LCMScheduler.from_config(self.pipeline.scheduler.config)

    @torch.no_grad()
    def identity(self, crops: Sequence[Tensor]) -> Tensor:
        """Embed square images of the face, float (3, side, side) in [0, 1]: identity embeddings (references, width)."""
        pixels = torch.stack([self.encoder.preprocess(crop) for crop in crops])
        return self.encoder.embed(pixels.to(self.base.device))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        negative: str,
        class_word: str,
        identity: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Image.Image]:
        """Generate one RGB image per prompt. It depends on its own prompt and seed, not on its batch (up to rounding).

        Args:
            prompts: Each with the class word.
            negative: The negative prompt.
            class_word: Whose place the identity takes.
            identity: (references, width), of `identity`.
            seeds: One per prompt.
            sampling: How.

        Raises:
            ValueError: A prompt has no class word.
            RuntimeError: An image is not finite.
        """
        plain, _ = self._encode(prompts, class_word, 1)
        repeated, positions = self._encode(prompts, class_word, len(identity))
        context = self.encoder.fuse(repeated.context, positions, identity.expand(len(prompts), -1, -1))
        fused = Text(context, repeated.pooled)
        without = self._encode_negative(negative, len(prompts))
        latents = self._sample(plain, fused, without, seeds, sampling)
        return [self._decode(row[None], prompt) for row, prompt in zip(latents, prompts, strict=True)]

    def _sample(self, plain: Text, fused: Text, without: Text, seeds: Sequence[int], sampling: Sampling) -> Tensor:
        """Sample latents; `fused` replaces `plain` after the style's steps. without: of the negative prompt."""
        guided = Text(torch.cat([without.context, fused.context]), torch.cat([without.pooled, fused.pooled]))

        def merge(pipeline: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Counted in the scheduler's own steps: some schedulers run the network twice per step
            if step + 1 == pipeline.num_timesteps * sampling.style_strength // 100:
                late = guided if pipeline.do_classifier_free_guidance else fused
                return {"prompt_embeds": late.context, "add_text_embeds": late.pooled}
            return tensors

        first = fused if sampling.steps * sampling.style_strength < 100 else plain
        return self.pipeline(
            prompt_embeds=first.context,
            pooled_prompt_embeds=first.pooled,
            negative_prompt_embeds=without.context,
            negative_pooled_prompt_embeds=without.pooled,
            height=sampling.size,
            width=sampling.size,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback_on_step_end=merge,
            callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds"],
            output_type="latent",
        ).images

    def _decode(self, latents: Tensor, prompt: str) -> Image.Image:
        if not latents.isfinite().all():
            raise RuntimeError(f"the image of {prompt!r} is not finite ({latents.dtype}): the base model overflows")
        pixels = self.base.decode(latents)[0].mul(255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())

    def tokens(self, prompts: Sequence[str], class_word: str, times: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return token ids of prompts with the class word repeated `times` times, and its positions.

        Raises:
            ValueError: A prompt has no class word among its tokens, or has it too late.
        """
        word = _token_ids(self.pipeline.tokenizer, class_word)[1:-1]
        found = [repeat_class_word(_token_ids(self.pipeline.tokenizer, text), word, times, text) for text in prompts]
        return [ids for ids, _ in found], [positions for _, positions in found]

    def _encode(self, prompts: Sequence[str], class_word: str, times: int) -> tuple[Text, Tensor]:
        ids, positions = self.tokens(prompts, class_word, times)
        return self._embed(ids), torch.tensor(positions, device=self.base.device)

    def _encode_negative(self, negative: str, rows: int) -> Text:
        text = self._embed([_shorten(_token_ids(self.pipeline.tokenizer, negative))] * rows)
        if not negative and self.pipeline.config.force_zeros_for_empty_prompt:
            # What SDXL was trained with; the miniature was trained with the encoded empty text
            return Text(torch.zeros_like(text.context), torch.zeros_like(text.pooled))
        return text

    def _embed(self, rows: Sequence[Sequence[int]]) -> Text:
        """Embed token ids with start and end: penultimate states of both text encoders, the second's pooled state."""
        states, pooled = [], None
        for tokenizer, encoder in (
            (self.pipeline.tokenizer, self.pipeline.text_encoder),
            (self.pipeline.tokenizer_2, self.pipeline.text_encoder_2),
        ):
            ids = [[*row, *[tokenizer.pad_token_id] * (MAX_TOKENS - len(row))] for row in rows]
            output = encoder(torch.tensor(ids, device=self.base.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        assert pooled is not None
        return Text(torch.cat(states, dim=-1), pooled)


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, verbose=False).input_ids)


def _shorten(ids: list[int]) -> list[int]:
    return ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]
