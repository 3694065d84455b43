"""DiffLoRA as one object: MIF, DiT and LAE with their layout, read from one file, used in three calls.

model = DiffLoRA.load("difflora.safetensors", device="cuda", dtype=torch.bfloat16)
lora = model.personalize(images, generator=torch.Generator().manual_seed(0))
lora.save("person.safetensors")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from torch import Tensor, nn

from .autoencoder.inverse import latents_of
from .autoencoder.model import LAE
from .checkpoint import read_checkpoint_header, write_checkpoint
from .config import DiffLoRAConfig
from .denoiser.config import Mode
from .denoiser.dit import DiT
from .denoiser.mif import MIF, MixedCondition, mean_embedding
from .denoiser.row_checks import check_rows
from .denoiser.sampling import StepCallback, sample
from .encoders.loaded import LoadedEncoders
from .files import open_tensors
from .images import ImageSource
from .lora.layout import LoRALayout
from .lora.lora import LoRA
from .network_files import cast_weights, load_network
from .references import ReferenceImage, UnusablePolicy, encode_references
from .seeds import describe_seed

WEIGHTS = "difflora.safetensors"
"""Name of the checkpoint in a folder or a repository of the Hugging Face Hub."""


class DiffLoRA(nn.Module, ModelHubMixin, library_name="difflora", tags=["lora", "personalization"]):
    """Reference embeddings → condition → latent → LoRA.

    `save_pretrained`, `from_pretrained` and `push_to_hub` are those of huggingface_hub's `ModelHubMixin`. A folder is
    read without any network call; only the name of a repository, or a push, uses the network.
    """

    def __init__(self, layout: LoRALayout, config: DiffLoRAConfig) -> None:
        """Make the networks, untrained.

        Args:
            layout: Layout of the LoRAs.
            config: Shapes of the networks.

        Raises:
            ValueError: The networks don't fit one another.
        """
        super().__init__()
        config.check()
        self.layout, self.config = layout, config
        self.lae, self.dit, self.mif = LAE(layout, config.lae), DiT(config.dit), MIF(config.mif)
        self.encoders = LoadedEncoders(config.encoders)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
    ) -> Self:
        """Read a checkpoint.

        Args:
            path: The file.
            device: Where the networks run.
            dtype: Of the weights; statistics stay in float32.
            compile: Compile the DiT's blocks by torch.compile, which pays after some dozens of people.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is something else, is damaged, holds NaN or was written by a newer version.
        """
        with open_tensors(path) as file:
            layout, config = read_checkpoint_header(path, file.metadata() or {}, file.keys())
            statistics = {"lae.mean": (layout.numel,)}
            layers = (config.lae.blocks, config.dit.layers)
            model = load_network(path, file, lambda: cls(layout, config), statistics, layers)
        model.encoders.look_beside(path)
        if compile:
            model.dit.compile_blocks()
        return cast_weights(model.eval().requires_grad_(False), device, dtype)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write one safetensors file: weights in `dtype`, statistics in float32, everything else in its header."""
        write_checkpoint(path, self, self.layout, self.config, dtype)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Read a checkpoint from a folder, or from a repository of the Hugging Face Hub.

        Args:
            pretrained_model_name_or_path: The folder, or the repository's name, owner/name.
            options: Those of `load`, and the mixin's: `revision`, `token`, …

        Raises:
            FileNotFoundError: There is no such folder, and no repository of this name, or it can't be reached.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            raise FileNotFoundError(
                f"there is no folder {pretrained_model_name_or_path}, expected one that holds {WEIGHTS}, or owner/name "
                f"of a repository of the Hugging Face Hub, where it was not found either: {error}"
            ) from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        model_kwargs.pop("config", None)  # the mixin's, from config.json; the checkpoint's header has all of it
        if (folder := Path(model_id)).is_dir():
            return cls.load(folder / WEIGHTS, **model_kwargs)
        path = hf_hub_download(
            model_id,
            WEIGHTS,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls.load(path, **model_kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / WEIGHTS)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.mif.null.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.mif.null.dtype

    @torch.no_grad()
    def mix(
        self, face: Tensor | None, image: Tensor | None, mode: Mode | None = None, image_share: float | None = None
    ) -> MixedCondition:
        """Mix the embeddings of one person's references, of any number of images, averaged before the gate.

        Args:
            face: (images, face_width) or None.
            image: (images, image_width) or None.
            mode: None takes the checkpoint's.
            image_share: The image's weight, 0 to 1, in place of the gate's.

        Raises:
            ValueError: See `MIF.forward` and `mean_embedding`.
        """
        face, image = (
            None if e is None else mean_embedding(e.float()).to(self.device, self.dtype) for e in (face, image)
        )
        condition, weights = self.mif(face, image, mode, image_share)
        return MixedCondition(condition, *weights[0].tolist())

    def sample(
        self,
        condition: Tensor,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        callback: StepCallback | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Sample latents.

        Args:
            condition: (people, width) of any dtype.
            generator: One for all, or one for each condition.
            callback: Called with (step, steps) before each step; it may raise to interrupt.
            sampling: Settings by name: steps, guidance_scale, scheduler, samples, latent_scale and temperature of
                `SamplingConfig`. One that is not given, or None, is the checkpoint's.

        Returns:
            (people, tokens, width) float32.

        Raises:
            ValueError: There is no such setting, one is outside its range, or a condition holds NaN.
        """
        config = self.config.sampling.changed(sampling)
        null, shape = self.mif.null, (self.config.dit.tokens, self.config.dit.latent_width)
        return sample(self.dit, condition.to(self.device, self.dtype), null, shape, config, generator, callback)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (people, tokens, width) into flat LoRAs (people, numel) float32.

        Raises:
            ValueError: The latents have another shape, or hold NaN, or are so large that the LoRA would.
        """
        check_rows("Latents", latents, ("people", "tokens", "width"))
        flat = self.lae.decode(latents.to(self.device, torch.float32)).float()
        check_rows("Decoded LoRAs", flat, ("people", "weights"))
        return flat

    @torch.no_grad()
    def encode(self, flat: Tensor) -> Tensor:
        """Encode flat LoRAs (people, numel) into latents (people, tokens, width) float32.

        A LoRA that this model made gets the latent that it was made from.

        Raises:
            ValueError: The LoRAs have another layout, or hold NaN.
        """
        check_rows("Flat LoRAs", flat, ("people", "weights"))
        return latents_of(self.lae, flat.to(self.device, torch.float32))

    def personalize(
        self,
        images: Sequence[ImageSource] | Tensor,
        *,
        generator: torch.Generator | None = None,
        face_root: str | Path | None = None,
        image_encoder: str | Path | None = None,
        mode: Mode | None = None,
        unusable: UnusablePolicy = "raise",
        on_image: Callable[[ReferenceImage], None] | None = None,
        callback: StepCallback | None = None,
        **sampling: Any,
    ) -> LoRA:
        """Make a LoRA from one person's reference images.

        Args:
            images: Files, PIL images, uint8 arrays or float tensors, any number; see `images.ImageSource`.
            generator: Draws the noise, one for the person; seed 0 unless given.
            face_root: The folder that holds models/<pack>. Both encoders default to ../insightface and
                ../clip_vision/<name> beside the checkpoint's folder, as in ComfyUI's models folder, and stay loaded.
            image_encoder: The CLIP vision folder.
            mode: None takes the checkpoint's.
            unusable: What to do about an image that can't be read or has no face.
            on_image: Called after each image, see `encode_references`.
            callback: Called before each step, see `sample`.
            sampling: Settings, see `sample`.

        Raises:
            FileNotFoundError: An encoder is not there.
            NoFaceError: An image has no face; it is named.
            ValueError: A setting is unknown or outside its range, or there is no image that can be used.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        mode = mode or self.config.mif.mode
        self._made_by(generator, mode, sampling)  # refuses impossible settings before any image is read
        found = encode_references(
            images,
            None if mode == "image" else self.encoders.face(self.device, face_root),
            None if mode == "face" else self.encoders.image(self.device, image_encoder),
            unusable=unusable,
            on_image=on_image,
        )
        return self.lora(found.face, found.image, mode=mode, generator=generator, callback=callback, **sampling)

    def lora(
        self,
        face: Tensor | None,
        image: Tensor | None,
        *,
        mode: Mode | None = None,
        generator: torch.Generator,
        callback: StepCallback | None = None,
        **sampling: Any,
    ) -> LoRA:
        """Make a LoRA, whose file says how it was made, from the embeddings of one person's references.

        The arguments are those of `mix` and `sample`, with one generator.

        Raises:
            ValueError: See `mix` and `sample`, or there are several generators.
        """
        made_by = self._made_by(generator, mode, sampling)
        condition = self.mix(face, image, mode).condition
        latents = self.sample(condition, generator=generator, callback=callback, **sampling)
        references = max(len(embeddings) for embeddings in (face, image) if embeddings is not None)
        return LoRA(self.decode(latents)[0].cpu(), self.layout, {"references": references, **made_by})

    def _made_by(self, generator: torch.Generator, mode: Mode | None, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """Check the settings of a LoRA, and return all of them, the checkpoint's too, as its file has them."""
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"generator is a {type(generator).__name__}, expected one torch.Generator for the person")
        mode = mode or self.config.mif.mode
        self.mif.check_mode(mode)
        return {"seed": describe_seed(generator), "mode": mode, **asdict(self.config.sampling.changed(sampling))}
