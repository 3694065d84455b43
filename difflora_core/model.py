"""DiffLoRA as one object: MIF, DiT and LAE with their layout, read from one file, used in three calls.

model = DiffLoRA.load("difflora.safetensors", device="cuda", dtype=torch.bfloat16)
lora = model.personalize(images, generator=torch.Generator().manual_seed(0))
lora.save("person.safetensors")
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .autoencoder.inverse import latents_of
from .autoencoder.model import LAE, LAEConfig
from .denoiser.diffusion import SamplingConfig, StepCallback, check_rows, sample
from .denoiser.dit import DiT, DiTConfig
from .denoiser.mif import MIF, MIFConfig, Mode, mean_embedding
from .encoders import FaceEncoder, ImageEncoder, providers_for, rgb_array
from .files import read_tensors, write_tensors
from .lora.file_formats import Format, lora_state_dict, save_lora
from .lora.layout import LoRALayout

FORMAT = 1
HEADER = "difflora"


@dataclass(frozen=True)
class EncoderNames:
    """The frozen encoders that a checkpoint was trained with; embeddings of others mean nothing to it.

    face: InsightFace model pack. image: CLIP vision model, a folder in transformers' format.
    """

    face: str = "antelopev2"
    image: str = "clip-vit-large-patch14"


@dataclass(frozen=True)
class DiffLoRAConfig:
    """Everything but the weights. provenance: free text figures of the training (people, steps, date)."""

    lae: LAEConfig
    dit: DiTConfig
    mif: MIFConfig
    encoders: EncoderNames
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote. Raises ValueError naming a field that this version doesn't have."""
        parts = {"lae": LAEConfig, "dit": DiTConfig, "mif": MIFConfig, "encoders": EncoderNames}
        made = {}
        for name, part in (parts | {"sampling": SamplingConfig}).items():
            unknown = d[name].keys() - {entry.name for entry in fields(part)}
            if unknown:
                raise ValueError(
                    f"the {name} configuration has {min(unknown)!r}, which this version doesn't know: update DiffLoRA."
                )
            made[name] = part(**d[name])
        return cls(**made, provenance=d.get("provenance", {}))


@dataclass(frozen=True)
class LoRA:
    """A LoRA as numbers. flat: float32 (numel,) in the order of `layout`. metadata: written into files."""

    flat: Tensor
    layout: LoRALayout
    metadata: Mapping[str, str] = field(default_factory=dict)

    def state_dict(self, format: Format | Literal["diffusers"] = "kohya") -> dict[str, Tensor]:
        """Tensors under "kohya" names (ComfyUI) or "peft" names, also called "diffusers"."""
        return lora_state_dict(self.flat, self.layout, "peft" if format == "diffusers" else format)

    def save(self, path: str | Path, format: Format | Literal["diffusers"] = "kohya") -> None:
        """Write a safetensors LoRA file, whole or not at all. format: see `state_dict`."""
        form: Format = "peft" if format == "diffusers" else format
        save_lora(path, self.flat, self.layout, form, dict(self.metadata))


class DiffLoRA(nn.Module):
    """Reference embeddings → condition → latent → LoRA."""

    def __init__(self, layout: LoRALayout, config: DiffLoRAConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        self.lae, self.dit, self.mif = LAE(layout, config.lae), DiT(config.dit), MIF(config.mif)
        self.root: Path | None = None
        self._encoders: dict[tuple[str, str], Any] = {}
        if (config.lae.tokens, config.lae.width) != (config.dit.tokens, config.dit.latent_width):
            raise ValueError(
                f"The LAE's latent is {config.lae.tokens} × {config.lae.width}, the DiT's "
                f"{config.dit.tokens} × {config.dit.latent_width}: they must agree."
            )
        if config.mif.width != config.dit.condition_width:
            raise ValueError(f"MIF gives {config.mif.width} numbers, the DiT takes {config.dit.condition_width}.")

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
    ) -> Self:
        """Read a checkpoint. compile: the DiT's blocks by torch.compile, which pays after some dozens of people.

        Raises FileNotFoundError, or ValueError saying what the file is instead, or what of it is damaged or newer.
        """
        tensors, metadata = read_tensors(path)
        if HEADER not in metadata:
            kind = "a LoRA file" if any("lora" in name for name in tensors) else "some other model"
            raise ValueError(
                f"{path} is no DiffLoRA checkpoint but {kind}: it has no {HEADER!r} header. Put DiffLoRA checkpoints "
                "into models/difflora, LoRAs into models/loras, base models into models/checkpoints."
            )
        try:
            header = json.loads(metadata[HEADER])
            newer = header["format"] > FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no DiffLoRA checkpoint: its {HEADER!r} header is another thing.") from error
        if newer:
            raise ValueError(
                f"{path} has checkpoint format {header['format']}, this version reads up to {FORMAT}: update DiffLoRA."
            )
        try:
            model = cls(LoRALayout.from_dict(header["layout"]), DiffLoRAConfig.from_dict(header["config"]))
            model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has a header that cannot be read: {error}") from error
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise ValueError(f"{path} holds weights that don't fit its header:{first[0]}") from error
        model.root = Path(path).parent
        if compile:
            model.dit.compile_blocks()
        return model.eval().requires_grad_(False).to(device=device, dtype=dtype)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write one safetensors file: weights in `dtype` (statistics in float32), everything else in its header."""
        header = {"format": FORMAT, "layout": self.layout.to_dict(), "config": asdict(self.config)}
        exact = dict(self.named_buffers())
        tensors = {
            k: (v.float() if k in exact else v.to(dtype)).cpu().contiguous() for k, v in self.state_dict().items()
        }
        write_tensors(path, tensors, {HEADER: json.dumps(header), "format": "pt"})

    @property
    def device(self) -> torch.device:
        return self.mif.null.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mif.null.dtype

    @torch.no_grad()
    def mix(
        self,
        face: Tensor | None,
        image: Tensor | None,
        mode: Mode | None = None,
        return_gate: bool = False,
        image_share: float | None = None,
    ) -> Any:
        """Embeddings of one person's references → condition (1, width).

        face: (pictures, face_width) or None. image: (pictures, image_width) or None; any number of pictures, averaged
        before the gate. image_share: the image's weight in place of the gate's. With return_gate also
        {"face": weight, "image": weight}.
        """
        face, image = (
            None if e is None else mean_embedding(e.float()).to(self.device, self.dtype) for e in (face, image)
        )
        condition, weights = self.mif(face, image, mode, image_share)
        if not return_gate:
            return condition
        return condition, dict(zip(("face", "image"), weights[0].tolist(), strict=True))

    def sample(
        self,
        condition: Tensor,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        samples: int | None = None,
        latent_scale: float | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Latents (people, tokens, width) float32 for conditions (people, width) of any dtype.

        None is what the checkpoint recommends. generator: one for all, or one for each condition. Raises ValueError for
        settings outside what they can be and for conditions that hold NaN, see `SamplingConfig` and
        `difflora_core.denoiser.diffusion.sample`.
        """
        asked = {
            "steps": steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "samples": samples,
            "latent_scale": latent_scale,
        }
        config = SamplingConfig(**{**asdict(self.config.sampling), **{k: v for k, v in asked.items() if v is not None}})
        shape = (self.config.dit.tokens, self.config.dit.latent_width)
        condition = condition.to(self.device, self.dtype)
        return sample(self.dit, condition, self.mif.null, shape, config, generator, callback)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (people, tokens, width) → flat LoRAs (people, numel) float32.

        Raises ValueError for latents of another shape, or that hold NaN.
        """
        check_rows("Latents", "(people, tokens, width)", latents)
        return self.lae.decode(latents.to(self.device, self.dtype)).float()

    @torch.no_grad()
    def encode(self, flat: Tensor) -> Tensor:
        """Flat LoRAs (people, numel) → latents (people, tokens, width); a LoRA that this model made comes back as the
        latent that it was made from.

        Raises ValueError for LoRAs of another layout, or that hold NaN.
        """
        check_rows("Flat LoRAs", "(people, numbers)", flat)
        return latents_of(self.lae, flat.to(self.device, self.dtype))

    def personalize(
        self,
        images: Sequence[Any],
        *,
        generator: torch.Generator | None = None,
        face_root: str | Path | None = None,
        image_encoder: str | Path | None = None,
        mode: Mode | None = None,
        **sampling: Any,
    ) -> LoRA:
        """Reference pictures of one person → LoRA.

        images: PIL pictures or uint8 arrays (height, width, 3) RGB, any number. face_root: the folder that holds
        models/<pack>; image_encoder: the CLIP vision folder. Both default to ../insightface and ../clip_vision/<name>
        beside the checkpoint's folder, as in ComfyUI's models folder. Encoders stay loaded for the next person.
        generator: seed 0 unless given. sampling: see `sample`.
        Raises NoFaceError naming the picture without a face, FileNotFoundError for an encoder that isn't there.
        """
        arrays = [rgb_array(image, number) for number, image in enumerate(images, start=1)]
        if not arrays:
            raise ValueError("personalize needs at least one reference picture, found none.")
        generator = generator or torch.Generator().manual_seed(0)
        mode = mode or self.config.mif.mode
        face = None if mode == "image" else self.face_encoder(face_root).encode(arrays)
        image_features = None if mode == "face" else self.image_encoder(image_encoder).encode(arrays)
        return self.lora(face, image_features, mode=mode, generator=generator, **sampling)

    def lora(
        self,
        face: Tensor | None,
        image: Tensor | None,
        *,
        mode: Mode | None = None,
        generator: torch.Generator,
        **sampling: Any,
    ) -> LoRA:
        """Embeddings of one person's references → LoRA, whose metadata says how it was made.

        face, image, mode: see `mix`. sampling: see `sample`.
        """
        latents = self.sample(self.mix(face, image, mode), generator=generator, **sampling)
        references = max(len(embeddings) for embeddings in (face, image) if embeddings is not None)
        settings = {name: value for name, value in sampling.items() if name != "callback"}
        made_by = {"references": references, "seed": generator.initial_seed(), **settings}
        return LoRA(self.decode(latents)[0].cpu(), self.layout, {HEADER: json.dumps(made_by)})

    def face_encoder(self, root: str | Path | None = None) -> FaceEncoder:
        """The checkpoint's face encoder, on the model's device; root as in `personalize`. Loaded once."""
        place = str(root or self._models / "insightface")
        key = (place, self.device.type)
        if key not in self._encoders:
            self._encoders[key] = FaceEncoder.open(self.config.encoders.face, place, providers_for(self.device))
        return self._encoders[key]

    def image_encoder(self, folder: str | Path | None = None) -> ImageEncoder:
        """The checkpoint's image encoder, on the model's device; folder as in `personalize`. Loaded once."""
        place = str(folder or self._models / "clip_vision" / self.config.encoders.image)
        key = (place, str(self.device))
        if key not in self._encoders:
            self._encoders[key] = ImageEncoder.open(place, self.device)
        return self._encoders[key]

    @property
    def _models(self) -> Path:
        """The folder with a folder for each kind of model; the checkpoint lies in one of them."""
        return (self.root or Path()).parent
