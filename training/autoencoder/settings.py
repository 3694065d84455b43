"""The settings of `train-lae`: one YAML file, see training/recipes/*/2_train_lae.yaml."""

from dataclasses import dataclass, field

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.fields import NonNegativeFloat, check_fields
from training.engine.settings import SettingsPath
from training.people.config import DiffusionLossCheckSettings, check_monitored
from training.people.network_settings import LayoutSettings

from .config import LAETraining


@dataclass(frozen=True)
class LAESettings:
    """Everything that a run needs.

    Raises:
        ValueError: The monitored metric is not measured, or needs a section that is not there.
    """

    stores: tuple[SettingsPath, ...]
    """LoRA stores, all of one layout, with the splits train and validation."""
    output: SettingsPath
    """Folder of the run; the result is output/lae.safetensors."""
    lae: LAEConfig = field(default_factory=LAEConfig)
    """Shape of the autoencoder."""
    training: LAETraining = field(default_factory=LAETraining)
    """How it is trained."""
    layout: LayoutSettings | None = None
    """What the stores have to hold; None is whatever they hold."""
    diffusion_loss_check: DiffusionLossCheckSettings | None = None
    """Validation by the base model's diffusion loss; None is without."""
    in_memory_gb: NonNegativeFloat = 8.0
    """A split that takes no more is read once, a larger one batch by batch."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_monitored(self.training.evaluation, self.diffusion_loss_check, self.training.loop)
