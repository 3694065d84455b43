"""How MIF and DiT are trained in latent space."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from difflora_core.denoiser.config import TIMESTEPS
from difflora_core.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Share, check_fields
from training.engine.config import EvaluationConfig, TrainConfig


@dataclass(frozen=True)
class DiffLoRATraining:
    """The training.

    Raises:
        ValueError: A value is outside its range.
    """

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=5000, learning_rate=1e-3, warmup=200, weight_decay=0.02, ema=0.999)
    )
    """Steps, optimizer, processes. `loop.compile` compiles the DiT's blocks alone."""
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(interval=500))
    """How often validation people are evaluated, and which weights are kept."""
    objective: Literal["diffusion", "regression"] = "diffusion"
    """`regression` is a baseline: the same network maps the condition to the latent in one pass, from zero input at the
    last timestep."""
    batch: PositiveInt = 64
    """People per micro-batch."""
    blend: Share = 0.0
    """Share of samples that are blends of two people, in embeddings and latent alike. All teachers share one
    initialization, so a blend is a plausible person, and a thousand people become many (mixup, Zhang et al. 2018)."""
    max_references: PositiveInt = 8
    """A random number of images up to this one is averaged into the condition."""
    embedding_noise: NonNegativeFloat = 0.25
    """Length of noise on the averaged embedding, relative to it."""
    cfg_dropout: Share = 0.1
    """Share of samples with the null condition, for classifier-free guidance."""
    modality_dropout: Share = 0.1
    """Share of steps with only the face or only the image embedding, each in half of them."""
    face_dropout: Share | None = None
    """Share of steps without the face embedding, in place of half of `modality_dropout`."""
    image_dropout: Share | None = None
    """Share of steps without the image embedding, in place of half of `modality_dropout`."""
    timestep_bias: PositiveFloat = 1.5
    """Above 1 high noise is drawn more often, see `draw_timesteps`."""
    min_snr_gamma: PositiveFloat | None = None
    """Of min-SNR loss weights (Hang et al. 2023); None is off."""
    delta_w_error: NonNegativeFloat = 0.0
    """Weight of the relative error of ΔW, see `latent_space_objective.DeltaWeightLoss`."""
    delta_w_direction: NonNegativeFloat = 0.0
    """Weight of the direction of ΔW, see `latent_space_objective.DeltaWeightLoss`."""
    delta_w_people: PositiveInt = 8
    """People of a micro-batch whose latents are decoded for these two terms."""
    delta_w_below: Annotated[int, Interval(ge=1, le=TIMESTEPS)] = TIMESTEPS
    """Only timesteps below this one are decoded for these two terms."""
    validation_references: PositiveInt = 3
    """Images that are averaged for each validation person."""
    gradient_checkpointing: bool = False
    """Of the DiT's blocks."""

    def __post_init__(self) -> None:
        check_fields(self)
        if sum(self.dropouts) > 1:
            raise ValueError(
                f"The shares of steps without face and without image lie between 0 and 1 together, found "
                f"{self.dropouts}."
            )

    @property
    def dropouts(self) -> tuple[float, float]:
        """Shares of steps without the face embedding, and without the image embedding."""
        half = self.modality_dropout / 2
        face = half if self.face_dropout is None else self.face_dropout
        return face, half if self.image_dropout is None else self.image_dropout
