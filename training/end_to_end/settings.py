"""The settings of `finetune`: one YAML file, see training/recipes/*/*_finetune_*.yaml."""

from dataclasses import dataclass, field

from difflora_core.fields import NonNegativeFloat, PositiveInt, check_fields
from training.engine.settings import SettingsPath

from .config import DenoiserFinetuning, LAEFinetuning


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that a run needs.

    Raises:
        ValueError: A value is outside its range, or the output would overwrite the network.
    """

    network: SettingsPath
    """A file of `train-lae`, or a DiffLoRA checkpoint; the result is output/<the same name>."""
    stores: tuple[SettingsPath, ...]
    """LoRA stores, all of one layout, with the splits train and validation."""
    dataset: SettingsPath
    """The dataset's YAML file, whose workspace has the people's images and which names the base model;
    preprocess.held_out is at least 1."""
    output: SettingsPath
    """Folder of the run."""
    embeddings: tuple[SettingsPath, ...] = ()
    """Caches of `python -m training embed`, for MIF and DiT."""
    images_per_person: PositiveInt = 1
    """In a step."""
    validation_people: PositiveInt = 16
    """The first so many people of the validation split are evaluated."""
    references: PositiveInt = 3
    """Images of each validation person that are averaged."""
    in_memory_gb: NonNegativeFloat = 8.0
    """Teachers that take no more are read once, more of them batch by batch."""
    lae: LAEFinetuning = field(default_factory=LAEFinetuning)
    """Used if the network is an autoencoder."""
    denoiser: DenoiserFinetuning = field(default_factory=DenoiserFinetuning)
    """Used if the network is a checkpoint."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.network.parent == self.output:
            raise ValueError(f"{self.output} holds the network itself: choose another output folder, nothing is lost")
