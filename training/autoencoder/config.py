"""How the LoRA autoencoder is trained in weight space."""

from dataclasses import asdict, astuple, dataclass, field

from difflora_core.fields import NonNegativeFloat, PositiveInt, Share, check_fields
from training.engine.config import EvaluationConfig, TrainConfig


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term (`weight_space_objective.TERMS`); a term of weight 0 is not computed.

    Raises:
        ValueError: A weight is negative, or all are 0.
    """

    reconstruction: NonNegativeFloat = 1.0
    """Mean squared error (the paper's)."""
    weight_preserved: NonNegativeFloat = 0.5
    """Squared error in which large weights count more (the paper's; the formula is our choice)."""
    delta_w_error: NonNegativeFloat = 0.0
    """Relative error of ΔW."""
    delta_w_direction: NonNegativeFloat = 0.0
    """Direction of ΔW."""
    spectrum: NonNegativeFloat = 0.0
    """Singular values of ΔW."""
    kl: NonNegativeFloat = 0.0
    """Kullback–Leibler divergence of the latents' posterior; only for a variational network."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not any(astuple(self)):
            raise ValueError("all loss weights are 0, expected one above 0")

    def active(self) -> dict[str, float]:
        """Return the terms that count, with their weights."""
        return {name: weight for name, weight in asdict(self).items() if weight}


@dataclass(frozen=True)
class LAETraining:
    """The training; the augmentation is our choice.

    Raises:
        ValueError: A value is outside its range.
    """

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=600, learning_rate=3e-4, warmup=50, weight_decay=0.01, ema=0.99)
    )
    """Steps, optimizer, processes."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How often validation people are evaluated, and which weights are kept."""
    batch: PositiveInt = 32
    """LoRAs per micro-batch."""
    losses: LossWeights = field(default_factory=LossWeights)
    """Weights of the loss terms."""
    blend: Share = 0.5
    """Share of samples that are a blend of two people."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of noise on the input, in units of the factor's scale."""
    scale: NonNegativeFloat = 0.0
    """Standard deviation of the logarithm of a random factor on a LoRA's deviation from the mean."""

    def __post_init__(self) -> None:
        check_fields(self)
