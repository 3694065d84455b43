"""The frozen base model, SDXL as a diffusers folder: text, pictures ↔ latents, one training step's prediction."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor, nn

from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class SDXLBase:
    """diffusers' SDXL pipeline, frozen. The autoencoder stays in float32: SDXL's own overflows in half precision."""

    pipeline: Any
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def open(cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Load a diffusers folder; nothing is downloaded and only safetensors is read. dtype: of U-Net and text.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it is no SDXL, or a part is missing or unreadable.
        """
        from diffusers import StableDiffusionXLPipeline

        folder = Path(folder)
        check_folder(folder)
        # The published folder holds every part twice; fp16 files alone are read as such
        plain = any(".fp16" not in path.name for path in (folder / "unet").glob("*.safetensors"))
        try:
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype={"vae": torch.float32, "default": dtype},
                variant=None if plain else "fp16",
                add_watermarker=False,
            )
        except Exception as error:  # diffusers, transformers and safetensors each raise their own
            raise ValueError(f"{folder} cannot be loaded as SDXL ({type(error).__name__}: {error})") from error
        pipeline.set_progress_bar_config(disable=True)
        for part in WEIGHTS:
            getattr(pipeline, part).requires_grad_(False).eval()
        return cls(pipeline.to(device), torch.device(device), dtype)

    @property
    def unet(self) -> nn.Module:
        return self.pipeline.unet

    def scheduler(self) -> Any:
        """The noise schedule that the model was trained with, as diffusers' DDPMScheduler."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def layout(self, rank: int, feed_forward: bool) -> LoRALayout:
        """The layout of LoRAs for this U-Net."""
        return LoRALayout.from_unet(self.unet, rank, feed_forward)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions → context (n, 77, width) and pooled (n, width of the second encoder)."""
        context, _, pooled, _ = self.pipeline.encode_prompt(
            list(captions), device=self.device, do_classifier_free_guidance=False
        )
        return context, pooled

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1] → latents (n, 4, h/8, w/8) float32, times the scaling factor.

        Of a variational autoencoder it takes the mean, not a sample: the cache is the same in every run.
        """
        vae = self.pipeline.vae
        encoded = vae.encode(2.0 * pixels.to(self.device, torch.float32) - 1.0)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, 4, h, w), scaled → pictures (n, 3, 8h, 8w) float32 in [0, 1]."""
        vae = self.pipeline.vae
        pictures = vae.decode(latents.to(self.device, torch.float32) / vae.config.scaling_factor).sample
        return (pictures / 2.0 + 0.5).clamp(0.0, 1.0)

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor, size: int) -> Tensor:
        """The U-Net's output (n, 4, h, w) float32 for a training step on uncropped square pictures of `size` pixels.

        noisy: (n, 4, h, w). timesteps: int64 (n,). context, pooled: as `encode_text` gives them.
        """
        time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=self.device, dtype=self.dtype)
        added = {"text_embeds": pooled.to(self.dtype), "time_ids": time_ids.expand(len(noisy), -1)}
        output = self.unet(noisy.to(self.dtype), timesteps, context.to(self.dtype), added_cond_kwargs=added).sample
        return output.float()

    @torch.no_grad()
    def generate(
        self, captions: Sequence[str], size: int, steps: int, guidance: float, seed: int, batch: int = 4
    ) -> Tensor:
        """Pictures (n, 3, size, size) float32 in [0, 1] by the pipeline's own sampler.

        Picture i starts from noise that depends on `seed` and i alone, whatever the batch.
        """
        pictures = []
        for at in range(0, len(captions), batch):
            chunk = list(captions[at : at + batch])
            dice = [torch.Generator().manual_seed(1_000_003 * seed + at + i) for i in range(len(chunk))]
            latents = self.pipeline(
                chunk,
                height=size,
                width=size,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=dice,
                output_type="latent",  # decoded here: the pipeline would decode in the U-Net's precision
            ).images
            pictures.append(self.decode(latents).cpu())
        return torch.cat(pictures)

    @contextmanager
    def working_unet(self) -> Iterator[None]:
        """While open, the U-Net is on its device; afterwards the whole pipeline waits in the host's memory."""
        try:
            self.unet.to(self.device)
            yield
        finally:
            self.pipeline.to("cpu")

    @contextmanager
    def lora(self, flat: Tensor, layout: LoRALayout) -> Iterator[None]:
        """While open, the U-Net holds a LoRA (numel,) that went through a PEFT file and diffusers' own loader.

        Raises ValueError if the loader leaves a module out.
        """
        try:
            with TemporaryDirectory(prefix="lora-") as folder:
                save_lora(Path(folder) / "lora.safetensors", flat, layout, "peft")
                self.pipeline.load_lora_weights(folder, weight_name="lora.safetensors", adapter_name="teacher")
            loaded = sum(hasattr(self.unet.get_submodule(name), "lora_A") for name in layout.names)
            if loaded != len(layout.names):
                raise ValueError(f"diffusers loaded {loaded} of the LoRA's {len(layout.names)} modules")
            yield
        finally:
            self.pipeline.unload_lora_weights()


def check_folder(folder: Path) -> None:
    """Raise unless a folder says that it is SDXL and has all its parts; weights are not looked at."""
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder} is a file; the base model is read from a diffusers folder (model_index.json)")
        raise FileNotFoundError(f"there is no folder {folder}; `base` names SDXL as a diffusers folder")
    index = _json(folder / "model_index.json")
    if not str(index.get("_class_name")).startswith("StableDiffusionXL"):
        found = index.get("_class_name", "no pipeline's name")
        raise ValueError(f"{folder} is no SDXL: model_index.json names {found}, expected StableDiffusionXLPipeline")
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; expected the folders {', '.join(PARTS)}")
    for part in WEIGHTS:
        if not any((folder / part).glob("*.safetensors")):
            raise ValueError(f"{folder / part} holds no safetensors; pickled weights are not read, convert them")
    unet = _json(folder / "unet" / "config.json")
    for field, expected in (("addition_embed_type", "text_time"), ("in_channels", 4)):
        if unet.get(field) != expected:
            raise ValueError(f"{folder} is no SDXL base: its U-Net's {field} is {unet.get(field)!r}, not {expected!r}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; the base model is read from a diffusers folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected settings by name")
    return values
