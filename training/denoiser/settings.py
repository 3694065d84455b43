"""The settings of `train-difflora`: one YAML file, see training/recipes/*/4_train_difflora.yaml.

`embed` reads the section `embeddings` of the same file.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from difflora_core.config import EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from training.engine.settings import SettingsPath
from training.people.config import DiffusionLossCheckSettings, EmbeddingSettings, check_monitored
from training.people.network_settings import DiTSettings, MIFSettings, denoiser_shapes

from .config import DiffLoRATraining

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
    from difflora_core.autoencoder.model import LAE


@dataclass(frozen=True)
class DiffLoRASettings:
    """Everything that a run needs.

    Raises:
        ValueError: The monitored metric is not measured, or needs a section that is not there.
    """

    stores: tuple[SettingsPath, ...]
    """LoRA stores, all of the LAE's layout, with the splits train and validation."""
    lae: SettingsPath
    """From `train-lae`, or a whole DiffLoRA checkpoint."""
    output: SettingsPath
    """Folder of the run; the result is output/difflora.safetensors."""
    encoders: EncoderNames
    """Whose embeddings they are."""
    embeddings: EmbeddingSettings
    """Where they are, or what to make them from."""
    dit: DiTSettings = field(default_factory=DiTSettings)
    """Shape of the DiT."""
    mif: MIFSettings = field(default_factory=MIFSettings)
    """Shape and mode of MIF."""
    training: DiffLoRATraining = field(default_factory=DiffLoRATraining)
    """How both are trained."""
    diffusion_loss_check: DiffusionLossCheckSettings | None = None
    """Validation by the base model's diffusion loss; None is without."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What the checkpoint recommends until it is chosen on validation people; a regression has settings of its own."""

    def __post_init__(self) -> None:
        check_monitored(self.training.evaluation, self.diffusion_loss_check, self.training.loop)

    def networks(self, lae: "LAE | None", widths: tuple[int, int]) -> tuple[DiTConfig, MIFConfig]:
        """Return the shapes of DiT and MIF.

        Args:
            lae: Whose latents; None before there is one, then those that the named DiT is meant for.
            widths: Of face and image embeddings.
        """
        return denoiser_shapes(self.dit, self.mif, lae, widths)
