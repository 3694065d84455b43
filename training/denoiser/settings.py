"""The settings of `train-difflora` and `embed`: one YAML file, see training/recipes/*/4_train_difflora.yaml."""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from difflora_core.config import EncoderNames
from difflora_core.denoiser.config import CONFIGURATIONS, DiTConfig, MIFConfig, Mode, SamplingConfig
from difflora_core.fields import PositiveFloat, PositiveInt, check_fields
from training.engine.settings import SettingsPath
from training.people.config import DiffusionLossCheckSettings

from .config import DiffLoRATraining

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
    from difflora_core.autoencoder.model import LAE


@dataclass(frozen=True)
class EmbeddingSettings:
    """Where embeddings are, or what to make them from.

    Raises:
        ValueError: Both are named or neither, or the image encoder is missing.
    """

    cache: tuple[SettingsPath, ...] = ()
    """Folders and files of embeddings, see `training.people.embeddings`."""
    dataset: SettingsPath | None = None
    """In place of `cache` the dataset's YAML file, whose kept images are embedded into its workspace."""
    image_encoder: SettingsPath | None = None
    """With `dataset`: a CLIP vision model, a folder in transformers' format."""
    allow_missing: bool = False
    """Leave out people of the store without embeddings, in place of an error."""

    def __post_init__(self) -> None:
        if bool(self.cache) == (self.dataset is not None):
            found = "both" if self.cache else "neither"
            raise ValueError(f"embeddings needs `cache`, where they are, or `dataset` to make them from; found {found}")
        if self.dataset is not None and self.image_encoder is None:
            raise ValueError("embeddings.dataset needs embeddings.image_encoder, the CLIP vision folder; found none")


@dataclass(frozen=True)
class DiTSettings:
    """Shape of the DiT. Tokens and latent width are the LAE's, the condition's width is MIF's.

    Raises:
        ValueError: There is no configuration of the name.
    """

    name: str = "small"
    """One of `difflora_core.denoiser.config.CONFIGURATIONS`; the other fields replace its own."""
    width: PositiveInt | None = None
    """Of the tokens inside."""
    layers: PositiveInt | None = None
    """Transformer blocks."""
    heads: PositiveInt | None = None
    """Of attention."""
    head_width: PositiveInt | None = None
    """Of one head."""
    mlp_ratio: PositiveFloat | None = None
    """Width inside the MLP over width of the tokens."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.name not in CONFIGURATIONS:
            raise ValueError(f"DiTs by name are {', '.join(CONFIGURATIONS)}, found {self.name!r}")

    def config(self) -> DiTConfig:
        """Return the configuration, with the latents that the named one is meant for."""
        names = {entry.name for entry in fields(DiTConfig)}
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name in names}
        return replace(CONFIGURATIONS[self.name], **{key: value for key, value in own.items() if value is not None})


@dataclass(frozen=True)
class MIFSettings:
    """Shape and mode of the mixed image features."""

    mode: Mode = "gate"
    """gate, mean, face or image."""
    width: PositiveInt | None = None
    """Of the condition; None is the named DiT's own."""
    face_width: PositiveInt | None = None
    """Of face embeddings; None is what the cache holds."""
    image_width: PositiveInt | None = None
    """Of image embeddings; None is what the cache holds."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DiffLoRASettings:
    """Everything that a run needs.

    Raises:
        ValueError: The monitored metric needs a section that is not there.
    """

    stores: tuple[SettingsPath, ...]
    """LoRA stores, all of the LAE's layout, with the splits train and validation."""
    lae: SettingsPath
    """From `train-lae`, or a whole DiffLoRA checkpoint."""
    output: SettingsPath
    """Folder of the run; the result is output/difflora.safetensors."""
    encoders: EncoderNames
    """Whose embeddings they are."""
    embeddings: EmbeddingSettings
    """Where they are, or what to make them from."""
    dit: DiTSettings = field(default_factory=DiTSettings)
    """Shape of the DiT."""
    mif: MIFSettings = field(default_factory=MIFSettings)
    """Shape and mode of MIF."""
    training: DiffLoRATraining = field(default_factory=DiffLoRATraining)
    """How both are trained."""
    diffusion_loss_check: DiffusionLossCheckSettings | None = None
    """Validation by the base model's diffusion loss; None is without."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What the checkpoint recommends until it is chosen on validation people; a regression has settings of its own."""

    def __post_init__(self) -> None:
        if self.training.evaluation.monitor == "teacher_recovery" and self.diffusion_loss_check is None:
            raise ValueError("evaluation.monitor is teacher_recovery, which needs the section `diffusion_loss_check`")

    def networks(self, lae: "LAE | None", widths: tuple[int, int]) -> tuple[DiTConfig, MIFConfig]:
        """Return the shapes of DiT and MIF.

        Args:
            lae: Whose latents; None before there is one, then those that the named DiT is meant for.
            widths: Of face and image embeddings.
        """
        dit = self.dit.config()
        mif = MIFConfig(*widths, self.mif.width or dit.condition_width, self.mif.mode)
        dit = replace(dit, condition_width=mif.width)
        if lae is None:
            return dit, mif
        dit = replace(dit, tokens=lae.config.tokens, latent_width=lae.config.width)
        if lae.config.kind == "token":
            from difflora_core.lora.tokens import tokens_of

            tokens = tokens_of(lae.layout, lae.config.token_of)
            if len(tokens.types) == lae.config.groups == dit.tokens:  # else a latent's token mixes several modules
                dit = replace(dit, token_types=tokens.types, token_depths=tokens.depths)
        return dit, mif
