"""The configuration of a DiffLoRA checkpoint, everything but the layout and the weights, and that of a refinement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .autoencoder.config import LAEConfig
from .denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from .fields import NonNegativeFloat, PositiveInt, check_fields, read_fields, shorten


@dataclass(frozen=True)
class EncoderNames:
    """The frozen encoders that a checkpoint was trained with; it can't use the embeddings of others."""

    face: str = "antelopev2"
    """InsightFace model pack."""
    image: str = "clip-vit-large-patch14"
    """CLIP vision model, a folder in transformers' format."""

    def __post_init__(self) -> None:
        for kind in ("face", "image"):
            name = getattr(self, kind)
            # Names become folders: one from a file must not lead out of the models' folder
            if (
                not isinstance(name, str)
                or name in ("", ".", "..")
                or set(name) & set("/\\:")
                or not name.isprintable()
            ):
                raise ValueError(
                    f"the {kind} encoder is {shorten(name)}, expected the name of a folder, without a path"
                )


@dataclass(frozen=True)
class DiffLoRAConfig:
    """Shapes of all networks, their encoders, and how to sample."""

    lae: LAEConfig
    """The autoencoder."""
    dit: DiTConfig
    """The denoiser's transformer."""
    mif: MIFConfig
    """The mixed image features."""
    encoders: EncoderNames
    """The frozen encoders."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Recommended settings."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the training (people, steps, date), ready for JSON."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            ValueError: A section is missing, or has an impossible value or a field that this version doesn't have.
        """
        sections = {
            "lae": LAEConfig,
            "dit": DiTConfig,
            "mif": MIFConfig,
            "encoders": EncoderNames,
            "sampling": SamplingConfig,
        }
        if not isinstance(values, Mapping):
            raise ValueError(f"the configuration is {shorten(values)}, expected an object")
        for name in sections:
            if name not in values:
                raise ValueError(f"the {name} configuration is missing")
        made = {name: read_fields(section, values[name], name) for name, section in sections.items()}
        if not isinstance(provenance := values.get("provenance", {}), Mapping):
            raise ValueError(f"provenance is {shorten(provenance)}, expected an object")
        return cls(**made, provenance=provenance)

    def check(self) -> None:
        """Check that the networks fit one another.

        Raises:
            ValueError: The latent or the condition has two widths.
        """
        lae, dit = self.lae, self.dit
        if (lae.tokens, lae.width) != (dit.tokens, dit.latent_width):
            raise ValueError(
                f"The LAE's latent is {lae.tokens} × {lae.width}, the DiT's {dit.tokens} × {dit.latent_width}: they "
                "must agree."
            )
        if self.mif.width != dit.condition_width:
            raise ValueError(f"MIF's condition has width {self.mif.width}, the DiT takes {dit.condition_width}.")


@dataclass(frozen=True)
class RefinementSettings:
    """How long, how fast and on how much a LoRA is trained further."""

    steps: PositiveInt = 30
    """Updates of the factors."""
    learning_rate: NonNegativeFloat = 1e-3
    """Adam's, at the first step; falls to zero along a cosine."""
    batch_size: PositiveInt = 4
    """Noisy latents per step."""

    def __post_init__(self) -> None:
        check_fields(self)
