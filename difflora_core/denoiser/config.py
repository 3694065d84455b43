"""Configurations of the denoiser: MIF, DiT, and how LoRA latents are sampled."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

from annotated_types import Interval

from ..fields import PositiveFloat, PositiveInt, check_fields

TIMESTEPS = 1000
"""Length of the noise schedule of LoRA latents."""
SCHEDULERS = ("ddim", "dpmpp_2m", "unipc")
"""Names of the samplers; `noise_schedule.make_scheduler` makes them."""

Mode = Literal["gate", "mean", "face", "image"]


@dataclass(frozen=True)
class MIFConfig:
    """Shape and mode of the mixed image features."""

    face_width: PositiveInt = 512
    """Width of the frozen face encoder's embeddings."""
    image_width: PositiveInt = 64
    """Width of the frozen image encoder's embeddings."""
    width: PositiveInt = 256
    """Width of the condition."""
    mode: Mode = "gate"
    """How face and image are weighted: by a learned gate, equally, or one of them alone."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the diffusion transformer."""

    tokens: PositiveInt = 18
    """Tokens of the LAE's latent."""
    latent_width: PositiveInt = 16
    """Width of the LAE's latent."""
    width: PositiveInt = 160
    """Width of the transformer."""
    layers: PositiveInt = 4
    """Transformer blocks."""
    heads: PositiveInt = 5
    """Attention heads."""
    head_width: PositiveInt = 32
    """Width of a head; heads × head_width need not be the transformer's width."""
    mlp_ratio: PositiveFloat = 4.0
    """Width of the MLP's hidden layer over the transformer's width."""
    condition_width: PositiveInt = 256
    """Width of the condition that MIF makes."""
    token_types: tuple[int, ...] = ()
    """Each token's type (see `lora.tokens.Tokens`), which gets a learned embedding; empty where tokens mix modules."""
    token_depths: tuple[int, ...] = ()
    """Each token's depth in the U-Net, which gets a learned embedding; empty where tokens mix modules."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("token_types", "token_depths"):
            values = tuple(getattr(self, name))  # a list when it comes from a checkpoint's JSON
            object.__setattr__(self, name, values)
            if values and (len(values) != self.tokens or min(values) < 0):
                raise ValueError(
                    f"The DiT's {name} are {self.tokens} integers from 0 on, one for each token, or none; found "
                    f"{len(values)}, the smallest {min(values)}."
                )


PAPER = DiTConfig(tokens=160, latent_width=128, width=1454, layers=16, heads=23, head_width=64, condition_width=1454)
CONFIGURATIONS: dict[str, DiTConfig] = {
    "paper": PAPER,
    "small": DiTConfig(tokens=160, latent_width=128, width=512, layers=8, heads=8, head_width=64, condition_width=512),
    "miniature": DiTConfig(tokens=22, width=144),
}
"""By name. Layers and width of `paper` are the paper's; `small` fits a GPU of 24 GB beside much else."""


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling settings; those that a checkpoint recommends were chosen on validation people.

    Guidance turns a prediction, the latent scale changes its length, the temperature varies it.
    """

    steps: Annotated[int, Interval(ge=1, le=TIMESTEPS)] = 20
    """Denoising steps, 1 to 1000."""
    guidance_scale: Annotated[float, Interval(ge=0, le=100)] = 1.0
    """0 is the null condition, 1 no guidance; any value but 1 takes twice the work."""
    scheduler: Literal["ddim", "dpmpp_2m", "unipc"] = "ddim"
    """One of `SCHEDULERS`."""
    samples: PositiveInt = 4
    """Latents that are drawn and averaged."""
    latent_scale: Annotated[float, Interval(ge=-100, le=100)] = 1.0
    """Distance from the average person, 1 as predicted; it undoes the shrinkage of a mean prediction."""
    temperature: Annotated[float, Interval(ge=0, le=2)] = 0.0
    """Standard deviation of a random change of the latent, in that of the training people; 0 is the prediction."""

    def __post_init__(self) -> None:
        check_fields(self)

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """Return these settings, with those in their place that are given and not None.

        Raises:
            ValueError: There is no such setting, or one is outside its range.
        """
        names = [entry.name for entry in fields(self)]
        if unknown := sorted(settings.keys() - set(names)):
            raise ValueError(f"there is no sampling setting {unknown[0]!r}; there are {', '.join(names)}")
        return replace(self, **{name: value for name, value in settings.items() if value is not None})

    @property
    def name(self) -> str:
        """All settings in one line, by which a checkpoint lists what each reached; the temperature unless it is 0."""
        named = {name: value for name, value in asdict(self).items() if name != "temperature" or value}
        return ", ".join(f"{name} {value}" for name, value in named.items())
