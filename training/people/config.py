"""Which people are checked by the base model's diffusion loss; in YAML files the section `diffusion_loss_check`."""

from dataclasses import dataclass

from difflora_core.fields import PositiveInt, check_fields
from training.engine.settings import SettingsPath


@dataclass(frozen=True)
class DiffusionLossCheckSettings:
    """Which people are checked, and how often."""

    dataset: SettingsPath
    """The dataset's YAML file, whose workspace has the base model and the images."""
    people: PositiveInt = 8
    """How many validation people are checked."""
    every: PositiveInt = 1
    """Evaluations from one check to the next."""

    def __post_init__(self) -> None:
        check_fields(self)
