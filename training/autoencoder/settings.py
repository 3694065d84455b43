"""The settings of `train-lae`: one YAML file, see training/recipes/*/2_train_lae.yaml."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.fields import NonNegativeFloat, PositiveInt, check_fields, read_json
from training.engine.settings import SettingsPath
from training.people.config import DiffusionLossCheckSettings

from .config import LAETraining

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
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

        if self.unet and not self.unet.is_file():
            raise FileNotFoundError(f"there is no {self.unet}: layout.unet names the config.json of a diffusers U-Net")
        unet = read_json(self.unet.read_text(encoding="utf-8"), f"layout.unet, {self.unet},") if self.unet else None
        if unet is not None and "down_block_types" not in unet:  # diffusers would take the blocks of another model
            raise ValueError(f"layout.unet, {self.unet}, is no configuration of a U-Net: it has no `down_block_types`")
        return LoRALayout.from_config(unet, self.rank, self.feed_forward)


@dataclass(frozen=True)
class LAESettings:
    """Everything that a run needs.

    Raises:
        ValueError: The monitored metric needs a section that is not there.
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
        if self.training.evaluation.monitor == "teacher_recovery" and self.diffusion_loss_check is None:
            raise ValueError("evaluation.monitor is teacher_recovery, which needs the section `diffusion_loss_check`")
