"""SDXL as the frozen base model: diffusers' pipeline behind `interface.BaseModel`.

What is particular to SDXL is here: two text encoders, time ids, the autoencoder's scale and precision. The
miniature's base model is a folder of the same kind and goes through the same code.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor, nn

from difflora_core.files import read_shapes
from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.tensor_names import parse
from difflora_core.seeds import generator_for

from .interface import TextEmbeddings
from .positive_side import positive_side
from .sdxl_folder import NETWORKS, check_folder
from .sdxl_text import added_token, encode_text, word_vectors

PIXELS_PER_LATENT = 8
"""Pixels of a side per position of a latent."""


@dataclass
class SDXLBase:
    """diffusers' SDXL pipeline, frozen. The autoencoder stays in float32: SDXL's own overflows in half precision."""

    pipeline: Any
    """diffusers' StableDiffusionXLPipeline."""
    device: torch.device
    """Where it computes."""
    dtype: torch.dtype
    """Of the U-Net and the text encoders."""

    @classmethod
    def open(
        cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32, unet_alone: bool = False
    ) -> Self:
        """Load a diffusers folder; nothing is downloaded and only safetensors is read.

        Args:
            folder: With model_index.json.
            device: As torch names it.
            dtype: Of the U-Net and the text encoders.
            unet_alone: Only the U-Net goes to the device; text encoders and VAE wait in host memory.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It is not SDXL's, or a part is missing or unreadable.
        """
        from diffusers import StableDiffusionXLPipeline

        folder = Path(folder)
        check_folder(folder)
        # The published folder holds every network twice; a folder with fp16 files alone is read as such
        full_precision = any(".fp16" not in path.name for path in (folder / "unet").glob("*.safetensors"))
        try:
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype={"vae": torch.float32, "default": dtype},
                variant=None if full_precision else "fp16",
                add_watermarker=False,
            )
        except Exception as error:  # diffusers, transformers and safetensors each raise their own
            raise ValueError(f"{folder} cannot be loaded as SDXL ({type(error).__name__}: {error})") from error
        pipeline.set_progress_bar_config(disable=True)
        for name in NETWORKS:
            getattr(pipeline, name).requires_grad_(False).eval()
        (pipeline.unet if unet_alone else pipeline).to(device)
        return cls(pipeline, torch.device(device), dtype)

    @property
    def unet(self) -> nn.Module:
        """The U-Net."""
        return self.pipeline.unet

    def scheduler(self) -> Any:
        """Return the noise schedule that the model was trained with, as diffusers' DDPMScheduler."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def layout(self, rank: int, feed_forward: bool) -> LoRALayout:
        """Return the layout of LoRAs for this U-Net."""
        return LoRALayout.from_network(self.unet, rank, feed_forward)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent of a square image of `size` pixels."""
        channels = int(self.pipeline.unet.config.in_channels)
        return channels, size // PIXELS_PER_LATENT, size // PIXELS_PER_LATENT

    def encode_text(self, captions: Sequence[str]) -> TextEmbeddings:
        """Encode captions: context (n, 77, width of both encoders) and pooled (n, width of the second encoder)."""
        return encode_text(self.pipeline, captions, self.device)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """Return a word's embedding in each text encoder; see `sdxl_text.word_vectors`."""
        return word_vectors(self.pipeline, word)

    def added_token(self, token: str, vectors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """While open, `token` stands for tokens with these embeddings; see `sdxl_text.added_token`."""
        return added_token(self.pipeline, token, vectors)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode images (n, 3, h, w) in [0, 1] into latents (n, channels, h/8, w/8) float32, times the scaling factor.

        Of a variational autoencoder it takes the mean, not a sample: latents are the same in every run.
        """
        vae = self.pipeline.vae
        encoded = vae.encode(2.0 * pixels.to(self.device, torch.float32) - 1.0)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (n, channels, h, w) into images (n, 3, 8h, 8w) float32 in [0, 1]."""
        vae = self.pipeline.vae
        images = vae.decode(latents.to(self.device, torch.float32) / vae.config.scaling_factor).sample
        return (images / 2.0 + 0.5).clamp(0.0, 1.0)

    def predict(self, noisy: Tensor, timesteps: Tensor, texts: TextEmbeddings, size: int) -> Tensor:
        """Run the U-Net for a training step on uncropped square images; see `interface.BaseModel.predict`.

        Args:
            noisy: Noisy latents (n, channels, h, w).
            timesteps: int64 (n,).
            texts: Of `encode_text`, n captions.
            size: Pixels of a side, from which SDXL's time ids are made.

        Returns:
            The prediction (n, channels, h, w) float32.
        """
        time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=self.device, dtype=self.dtype)
        added = {"text_embeds": texts["pooled"].to(self.dtype), "time_ids": time_ids.expand(len(noisy), -1)}
        context = texts["context"].to(self.dtype)
        return self.unet(noisy.to(self.dtype), timesteps, context, added_cond_kwargs=added).sample.float()

    def use_sampler(self, name: str) -> None:
        """Generate by another of diffusers' schedulers, for instance EulerDiscreteScheduler.

        Raises:
            ValueError: There is no such scheduler, or it does not fit SDXL.
        """
        fitting = {kind.__name__: kind for kind in self.pipeline.scheduler.compatibles}
        if name not in fitting:
            raise ValueError(f"there is no sampler {name!r}; expected one of {', '.join(sorted(fitting))}")
        self.pipeline.scheduler = fitting[name].from_config(self.pipeline.scheduler.config)

    @torch.no_grad()
    def generate(
        self,
        captions: Sequence[str],
        size: int,
        steps: int,
        guidance: float,
        seed: int | Sequence[int],
        batch: int = 4,
        negative: str = "",
    ) -> Tensor:
        """Generate images (n, 3, size, size) float32 in [0, 1] by the pipeline's sampler.

        Args:
            captions: One for each image.
            size: Pixels of a side.
            steps: Of the sampler.
            guidance: Of classifier-free guidance.
            seed: Image i starts from noise that depends on it and i alone, whatever the batch; or a seed for each.
            batch: Images that are generated at a time.
            negative: The negative prompt; without one, the model's own way of an empty text.
        """
        generators = [
            generator_for(seed, "generate", i) if isinstance(seed, int) else generator_for(seed[i], "generate", 0)
            for i in range(len(captions))
        ]
        images = []
        for start in range(0, len(captions), batch):
            chunk = list(captions[start : start + batch])
            latents = self.pipeline(
                chunk,
                height=size,
                width=size,
                num_inference_steps=steps,
                guidance_scale=guidance,
                negative_prompt=[negative] * len(chunk) if negative else None,
                generator=generators[start : start + batch],
                output_type="latent",  # decoded here: the pipeline would decode in the U-Net's precision
            ).images
            images += [self.decode(latent).cpu() for latent in latents.split(1)]  # of one, not a batch: its memory
        return torch.cat(images)

    @contextmanager
    def unet_on_device(self) -> Iterator[None]:
        """While open, the U-Net is on its device; afterwards the whole pipeline waits in host memory."""
        try:
            self.unet.to(self.device)
            yield
        finally:
            self.pipeline.to("cpu")

    @contextmanager
    def loaded_lora(self, flat: Tensor, layout: LoRALayout) -> Iterator[None]:
        """While open, the U-Net holds a LoRA (numel,) that went through a PEFT file and diffusers' own loader.

        Raises:
            ValueError: The loader left a module out.
        """
        with TemporaryDirectory(prefix="lora-") as folder:
            save_lora(path := Path(folder) / "lora.safetensors", flat, layout, "peft")
            with self.loaded_lora_file(path):
                loaded = sum(hasattr(self.unet.get_submodule(name), "lora_A") for name in layout.names)
                if loaded != len(layout.names):
                    raise ValueError(f"diffusers loaded {loaded} of the LoRA's {len(layout.names)} modules")
                yield

    @contextmanager
    def loaded_lora_file(self, path: Path) -> Iterator[None]:
        """While open, U-Net and text encoders hold a LoRA file of any program, as diffusers' own loader reads it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It can't be read, or the loader left modules out.
        """
        expected = _module_count(path)
        try:
            try:
                self.pipeline.load_lora_weights(
                    path.parent, weight_name=path.name, adapter_name="lora", local_files_only=True, use_safetensors=True
                )
            except Exception as error:  # diffusers and PEFT each raise their own
                problem = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"{path}: diffusers can't load this LoRA ({type(error).__name__}: {problem})"
                ) from error
            networks = (self.unet, self.pipeline.text_encoder, self.pipeline.text_encoder_2)
            loaded = sum(hasattr(module, "lora_A") for network in networks for module in network.modules())
            if loaded != expected:
                raise ValueError(
                    f"{path}: diffusers loaded {loaded} of the LoRA's {expected} modules; it is for another base model"
                )
            yield
        finally:
            self.pipeline.unload_lora_weights()

    def lora_on_positive_side(self) -> AbstractContextManager[None]:
        """While open, the LoRA that is loaded acts on the positive prompt alone; see `positive_side.positive_side`."""
        return positive_side(self.pipeline)


def _module_count(path: Path) -> int:
    """Count the modules that a LoRA file changes."""
    return sum(parse(name).role == "down" for name in read_shapes(path)[0])
