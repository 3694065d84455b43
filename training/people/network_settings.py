"""Shapes of LoRAs and networks, as the trainers' YAML files name them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from difflora_core.denoiser.config import CONFIGURATIONS, DiTConfig, MIFConfig, Mode
from difflora_core.fields import PositiveFloat, PositiveInt, check_fields, read_json_file
from training.engine.settings import SettingsPath

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
    from difflora_core.autoencoder.model import LAE
    from difflora_core.lora.layout import LoRALayout


@dataclass(frozen=True)
class LayoutSettings:
    """Which layers LoRAs change."""

    rank: PositiveInt = 4
    """Of every LoRA."""
    feed_forward: bool = False
    """Whether the feed-forward layers are among the targets, beside attention."""
    unet: SettingsPath | None = None
    """The config.json of a diffusers U-Net; None is SDXL's."""

    def __post_init__(self) -> None:
        check_fields(self)

    def layout(self) -> "LoRALayout":
        """Build the layout.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no configuration of a U-Net.
        """
        from difflora_core.lora.layout import LoRALayout

        return LoRALayout.from_config(self.unet_config(), self.rank, self.feed_forward)

    def unet_config(self) -> Mapping[str, Any] | None:
        """Read the U-Net's configuration; None is SDXL's.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no configuration of a U-Net.
        """
        if self.unet is None:
            return None
        if not self.unet.is_file():
            raise FileNotFoundError(f"there is no {self.unet}: layout.unet names the config.json of a diffusers U-Net")
        config = read_json_file(self.unet, f"layout.unet, {self.unet},")
        if "down_block_types" not in config:  # diffusers would take the blocks of another model
            raise ValueError(f"layout.unet, {self.unet}, is no configuration of a U-Net: it has no `down_block_types`")
        return config


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
        """Return the named configuration with these fields in place of its own; its tokens and latent width stay."""
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


def denoiser_shapes(
    dit: DiTSettings, mif: MIFSettings, lae: "LAE | None", widths: tuple[int, int]
) -> tuple[DiTConfig, MIFConfig]:
    """Return the shapes of DiT and MIF.

    Args:
        dit: As named.
        mif: As named.
        lae: Whose latents; None before there is one, then those that the named DiT is meant for.
        widths: Of face and image embeddings.
    """
    config = dit.config()
    mixed = MIFConfig(*widths, mif.width or config.condition_width, mif.mode)
    config = replace(config, condition_width=mixed.width)
    if lae is None:
        return config, mixed
    config = replace(config, tokens=lae.config.tokens, latent_width=lae.config.width)
    if lae.config.kind == "token":
        from difflora_core.lora.tokens import tokens_of

        tokens = tokens_of(lae.layout, lae.config.token_of)
        if len(tokens.types) == lae.config.groups == config.tokens:  # else a latent's token mixes several modules
            config = replace(config, token_types=tokens.types, token_depths=tokens.depths)
    return config, mixed
