"""The settings of `train-difflora` and `embed`: one YAML file, see training/configs/difflora_*.yaml."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.dit import CONFIGURATIONS, DiTConfig, token_places
from difflora_core.denoiser.mif import MIFConfig, Mode
from difflora_core.model import EncoderNames
from training.people.diffusion_loss_check import DiffusionLossCheckSettings

from .train import DiffLoRATraining


@dataclass(frozen=True)
class EmbeddingSettings:
    """cache: folders and files of embeddings, see `embeddings`. dataset: in its place the pipeline's YAML file, whose
    kept pictures are embedded into its workspace, with image_encoder, a CLIP vision folder in transformers' format.
    allow_missing: people of the store without embeddings are left out, not an error.
    """

    cache: tuple[Path, ...] = ()
    dataset: Path | None = None
    image_encoder: Path | None = None
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if bool(self.cache) == (self.dataset is not None):
            found = "both" if self.cache else "neither"
            raise ValueError(f"embeddings needs `cache`, where they are, or `dataset` to make them from; found {found}")
        if self.dataset is not None and self.image_encoder is None:
            raise ValueError("embeddings.dataset needs embeddings.image_encoder, the CLIP vision folder; found none")


@dataclass(frozen=True)
class DiTSettings:
    """name: of one of `difflora_core.denoiser.dit.CONFIGURATIONS`; the other fields take the place of its own. Tokens and latent
    width are the LAE's, the condition's width is MIF's.
    """

    name: str = "small"
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    head_width: int | None = None
    mlp_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.name not in CONFIGURATIONS:
            raise ValueError(f"DiTs by name are {', '.join(CONFIGURATIONS)}, found {self.name!r}")

    @property
    def named(self) -> DiTConfig:
        """The configuration, with the latents that the named one was meant for."""
        own = {entry.name for entry in fields(DiTConfig)}
        asked = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name in own}
        return replace(CONFIGURATIONS[self.name], **{key: value for key, value in asked.items() if value is not None})


@dataclass(frozen=True)
class MIFSettings:
    """mode: gate, mean, face or image. width: of the condition, default the DiT's own. face_width, image_width: of the
    embeddings; unless given, what the cache holds.
    """

    mode: Mode = "gate"
    width: int | None = None
    face_width: int | None = None
    image_width: int | None = None


@dataclass(frozen=True)
class DiffLoRASettings:
    """Everything that a run takes.

    stores: of LoRAs, all of the LAE's layout, with the splits train and validation. lae: from `train-lae`, or a whole
    DiffLoRA checkpoint. output: folder of the run; the result is output/difflora.safetensors. encoders: whose the
    embeddings are.
    pictures: validation by the base model's loss, see `picture_check`; None is without. sampling: recommended by the
    checkpoint, to be chosen on validation people later; a regression has one of its own.
    """

    stores: tuple[Path, ...]
    lae: Path
    output: Path
    encoders: EncoderNames
    embeddings: EmbeddingSettings
    dit: DiTSettings = field(default_factory=DiTSettings)
    mif: MIFSettings = field(default_factory=MIFSettings)
    training: DiffLoRATraining = field(default_factory=DiffLoRATraining)
    pictures: DiffusionLossCheckSettings | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.training.monitor == "teacher_recovery" and self.pictures is None:
            raise ValueError("training.monitor is teacher_recovery, which needs the section `pictures`; found none")

    def networks(self, lae: LAE | None, widths: tuple[int, int]) -> tuple[DiTConfig, MIFConfig]:
        """Shapes of DiT and MIF. lae: None before there is one, which then has the latents that the named DiT was meant
        for. widths: of face and image embeddings.
        """
        dit = self.dit.named
        mif = MIFConfig(*widths, self.mif.width or dit.condition_width, self.mif.mode)
        dit = replace(dit, condition_width=mif.width)
        if lae is None:
            return dit, mif
        dit = replace(dit, tokens=lae.config.tokens, latent_width=lae.config.width)
        if lae.config.kind == "token":
            types, depths = token_places(lae.layout, lae.config.token_of)
            if len(types) == lae.config.groups == dit.tokens:  # else a token of the latent mixes several modules
                dit = replace(dit, token_types=types, token_depths=depths)
        return dit, mif
