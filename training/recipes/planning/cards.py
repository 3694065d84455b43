"""What was measured on a card: a YAML file for each in `cards/`, from which `plan` takes its figures.

Every section says with what it was measured and when; a figure that was not measured is left out.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from difflora_core.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, check_fields
from training.engine.settings import read_settings

FOLDER = Path(__file__).parent / "cards"


@dataclass(frozen=True)
class MatrixProducts:
    """The rate of large matrix products in bf16, with which other figures are compared."""

    tflops: PositiveFloat
    """10¹² operations a second; a multiplication and an addition are two."""
    measured: str
    """With what, and when."""


@dataclass(frozen=True)
class DreamBoothFigure:
    """Training LoRAs of several people in one batch."""

    size: PositiveInt
    """Pixels of a side."""
    gradient_checkpointing: bool
    """Of the U-Net."""
    people: PositiveInt
    """In the batch, with one image each."""
    ms: PositiveFloat
    """Milliseconds of a step per person."""
    gib: NonNegativeFloat = 0
    """Peak of GPU memory with the U-Net alone; 0 is unknown."""


@dataclass(frozen=True)
class DreamBoothFigures:
    """All that were measured, fewer people first."""

    measured: str
    """With what, and when."""
    figures: tuple[DreamBoothFigure, ...]
    """At least one."""

    def __post_init__(self) -> None:
        if not self.figures:
            raise ValueError("dreambooth.figures is empty; leave the section out where nothing was measured")


@dataclass(frozen=True)
class GuidedStep:
    """One denoising step of one image with classifier-free guidance."""

    size: PositiveInt
    """Pixels of a side."""
    ms: PositiveFloat
    """Milliseconds."""
    measured: str
    """With what, and when."""


@dataclass(frozen=True)
class Encoders:
    """One image through the frozen encoders."""

    face_ms: PositiveFloat
    """Detector and recognizer of faces, in milliseconds."""
    image_encoder_ms: PositiveFloat
    """CLIP's vision model, in milliseconds."""
    measured: str
    """With what, and when."""


@dataclass(frozen=True)
class BatchTime:
    """A step with a batch."""

    batch: PositiveInt
    """Samples."""
    ms: PositiveFloat
    """Milliseconds of the whole step."""


@dataclass(frozen=True)
class DiTTraining:
    """Training steps of a DiT, from which the share of the rate that training reaches is taken."""

    dit: str
    """By its name in `difflora_core.denoiser.config.CONFIGURATIONS`."""
    figures: tuple[BatchTime, ...]
    """Smaller batches first."""
    measured: str
    """With what, and when."""

    def __post_init__(self) -> None:
        if not self.figures:
            raise ValueError("dit_training.figures is empty; leave the section out where nothing was measured")


@dataclass(frozen=True)
class DiTSampling:
    """One forward pass of a DiT with a person's latents, bound by kernel launches."""

    dit: str
    """By its name in `difflora_core.denoiser.config.CONFIGURATIONS`."""
    ms: PositiveFloat
    """Milliseconds."""
    measured: str
    """With what, and when."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW, clipping and EMA of one step, bound by memory: proportional to the parameters."""

    parameters: PositiveInt
    """That were trained."""
    ms: PositiveFloat
    """Milliseconds."""
    measured: str
    """With what, and when."""


@dataclass(frozen=True)
class StepFigure:
    """One step of a recipe, measured as a whole; it counts where step, parameters and batch are the same."""

    step: str
    """A stage of the dataset or a trainer's command."""
    batch: PositiveInt
    """Samples of a micro-batch; of finetune they are people."""
    measured: str
    """With what, and when."""
    parameters: NonNegativeInt = 0
    """Of the trained network."""
    size: PositiveInt = 768
    """Pixels of a side of the people's images."""
    ms: NonNegativeFloat = 0
    """Milliseconds of an optimizer step; 0 is unknown."""
    accumulate: PositiveInt = 1
    """Micro-batches of the step, in whose proportion the time of a step with another number of them is computed."""
    gib: NonNegativeFloat = 0
    """Peak of GPU memory; 0 is unknown."""


@dataclass(frozen=True)
class Card:
    """All figures of a card; None is not measured.

    Raises:
        ValueError: A value is outside its range.
    """

    title: str
    """Its name."""
    memory_gb: NonNegativeFloat = 0
    """As it is sold."""
    times_of: str = ""
    """The card that was measured, if all times are scaled from it."""
    sdxl: bool = True
    """Whether the base model was SDXL; else it was the miniature's."""
    matrix_products: MatrixProducts | None = None
    """The rate."""
    dreambooth: DreamBoothFigures | None = None
    """Stage dreambooth."""
    guided_step: GuidedStep | None = None
    """Stages generate and verify."""
    encoders: Encoders | None = None
    """Stages collect and filter, and embed."""
    dit_training: DiTTraining | None = None
    """Training of MIF and DiT."""
    dit_sampling: DiTSampling | None = None
    """Rollouts of end-to-end fine-tuning."""
    optimizer: Optimizer | None = None
    """Of trainers."""
    steps: tuple[StepFigure, ...] = ()
    """Whole steps."""

    def __post_init__(self) -> None:
        check_fields(self)

    def step(self, step: str, parameters: int, batch: int, size: int) -> StepFigure | None:
        """Return what was measured of exactly this step; None if it was not."""
        for figure in self.steps:
            if (figure.step, figure.parameters, figure.batch, figure.size) == (step, parameters, batch, size):
                return figure
        return None


def read_card(name: str) -> Card:
    """Read a card's file.

    Args:
        name: Of a shipped card, or a YAML file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file can't be read.
    """
    shipped = FOLDER / f"{name}.yaml"
    if shipped.is_file():
        return read_settings(Card, shipped)
    if Path(name).is_file():
        return read_settings(Card, name)
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
    raise FileNotFoundError(
        f"there are no figures of a card {name}: known are {known}; give a YAML file like those in {FOLDER}, or the "
        "card's rate of bf16 matrix products with --tflops"
    )


def scale_card(card: Card, tflops: float) -> Card:
    """Scale all times of a card to another one's rate of matrix products; memory stays.

    time = measured time × measured rate / other rate

    Args:
        card: Measured.
        tflops: The other one's rate in bf16, 10¹² operations a second.

    Raises:
        ValueError: The card's own rate was not measured.
    """
    rate = card.matrix_products
    if rate is None:
        raise ValueError(f"the figures of {card.title} have no matrix_products, so that --tflops can't scale them")
    factor = rate.tflops / tflops
    return replace(
        _scaled(card, factor),
        title=f"a card of {tflops:g} TFLOP/s, with the times of {card.title} × {factor:.3g}",
        times_of=card.title,
        memory_gb=0,
        matrix_products=MatrixProducts(tflops, "given with --tflops"),
    )


def _scaled(figures: Any, factor: float) -> Any:
    """Multiply all times: fields called `ms`, or ending in `_ms`, of a dataclass and of those inside."""
    if isinstance(figures, tuple):
        return tuple(_scaled(figure, factor) for figure in figures)
    if not is_dataclass(figures) or isinstance(figures, type):
        return figures
    changed = {}
    for entry in fields(figures):
        value = getattr(figures, entry.name)
        is_time = entry.name == "ms" or entry.name.endswith("_ms")
        changed[entry.name] = value * factor if is_time else _scaled(value, factor)
    return replace(figures, **changed)
