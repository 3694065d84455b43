"""How the LoRA autoencoder is trained in weight space."""

from dataclasses import asdict, astuple, dataclass, field

from training.engine.config import EvaluationConfig, TrainConfig


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term (`weight_space_objective.TERMS`); a term of weight 0 is not computed.

    Raises:
        ValueError: A weight is negative, or all are 0.
    """

    reconstruction: float = 1.0
    """Mean squared error (the paper's)."""
    weight_preserved: float = 0.5
    """Squared error in which large weights count more (the paper's; the formula is our choice)."""
    delta_w_error: float = 0.0
    """Relative error of ΔW."""
    delta_w_direction: float = 0.0
    """Direction of ΔW."""
    spectrum: float = 0.0
    """Singular values of ΔW."""
    kl: float = 0.0
    """Kullback–Leibler divergence of the latents' posterior; only for a variational network."""

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or max(astuple(self)) <= 0:
            raise ValueError(f"loss weights are at least 0, and one of them is above 0: found {asdict(self)}")

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
    batch: int = 32
    """LoRAs per micro-batch."""
    losses: LossWeights = field(default_factory=LossWeights)
    """Weights of the loss terms."""
    blend: float = 0.5
    """Share of samples that are a blend of two people."""
    noise: float = 0.0
    """Standard deviation of noise on the input, in units of the factor's scale."""
    scale: float = 0.0
    """Standard deviation of the logarithm of a random factor on a LoRA's deviation from the mean."""

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.blend <= 1 or self.noise < 0 or self.scale < 0:
            raise ValueError(
                "batch is at least 1, blend is a share, noise and scale are at least 0: found "
                f"batch {self.batch}, blend {self.blend}, noise {self.noise}, scale {self.scale}"
            )
