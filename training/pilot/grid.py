"""The grid of a pilot: which settings of DreamBooth are tried."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

from difflora_core.fields import PositiveFloat, PositiveInt, check_fields
from training.dreambooth.config import DreamBoothConfig

LEARNING_RATE_FACTORS, STEP_FACTORS, RANK_FACTORS = (0.1, 0.3, 1.0), (0.25, 0.5, 1.0), (1, 2)
"""Of the configured values, where the grid is not given."""


@dataclass(frozen=True)
class TeacherSetting:
    """One point of the grid; the fields are those of `DreamBoothConfig`."""

    learning_rate: PositiveFloat
    """AdamW's peak learning rate."""
    steps: PositiveInt
    """Optimizer steps. Each number is a training of its own, since the learning rate falls over all steps."""
    feed_forward: bool
    """Whether feed-forward layers have a LoRA, beside the attention layers."""
    rank: PositiveInt
    """Of the LoRAs."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, config: DreamBoothConfig) -> "TeacherSetting":
        """Return the configured setting."""
        return cls(config.learning_rate, config.steps, config.feed_forward, config.rank)

    def applied(self, config: DreamBoothConfig) -> DreamBoothConfig:
        """Return the configuration with this setting."""
        return replace(config, **asdict(self))

    @property
    def targets(self) -> str:
        """The layers that have a LoRA, in words."""
        return "attention + feed-forward" if self.feed_forward else "attention"

    @property
    def name(self) -> str:
        """Of its files."""
        layers = "feed-forward" if self.feed_forward else "attention"
        return f"rate-{self.learning_rate!r}_steps-{self.steps}_{layers}_rank-{self.rank}"

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:g}, {self.steps} steps, {self.targets}, rank {self.rank}"


def make_grid(
    config: DreamBoothConfig,
    learning_rates: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    feed_forward: Sequence[bool] = (False, True),
    ranks: Sequence[int] | None = None,
) -> list[TeacherSetting]:
    """Return every combination once, the cheap ones first; what is None is derived from the configured values.

    Raises:
        ValueError: There is no combination, a value is out of range, or a training would end within the warm-up.
    """
    if learning_rates is None:
        learning_rates = [float(f"{factor * config.learning_rate:.2g}") for factor in LEARNING_RATE_FACTORS]
    if steps is None:
        shares = {round(factor * config.steps) for factor in STEP_FACTORS}
        steps = [count for count in sorted(shares) if count > config.warmup] or [config.steps]
    if ranks is None:
        ranks = [factor * config.rank for factor in RANK_FACTORS]
    found = [TeacherSetting(*values) for values in product(learning_rates, steps, feed_forward, ranks)]
    if not found:
        raise ValueError("the grid is empty: each of learning rates, steps, targets and ranks needs a value")
    if (least := min(setting.steps for setting in found)) <= config.warmup:
        raise ValueError(
            f"{least} steps end within the warm-up of {config.warmup} (dreambooth.warmup): give more steps, or a "
            "shorter warm-up in the dataset's settings"
        )
    return sorted(dict.fromkeys(found), key=lambda setting: (setting.steps, setting.feed_forward, setting.rank))
