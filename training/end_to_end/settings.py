"""The settings of `finetune` and `train-teacher-free`: a YAML file each, see training/recipes/."""

from dataclasses import dataclass, field

from difflora_core.autoencoder.config import BASELINES, LAEConfig
from difflora_core.config import EncoderNames
from difflora_core.fields import NonNegativeFloat, PositiveInt, check_fields
from training.engine.settings import SettingsPath
from training.people.config import EmbeddingSettings
from training.people.network_settings import DiTSettings, LayoutSettings, MIFSettings

from .config import DenoiserFinetuning, JointTraining, LAEFinetuning


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that a run needs.

    Raises:
        ValueError: A value is outside its range, the monitored metric is not measured, or the output would overwrite
            the network.
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
    gradient_checkpointing: bool = False
    """Compute the U-Net's activations again in the backward pass, which saves memory and costs time."""
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
        for own in (self.lae, self.denoiser):
            own.evaluation.check_monitor("teacher_recovery")
        if self.network.parent == self.output:
            raise ValueError(f"{self.output} holds the network itself: choose another output folder, nothing is lost")


@dataclass(frozen=True)
class JointSettings:
    """Everything that a run of `train-teacher-free` needs.

    The dataset's `dreambooth.rank` and `feed_forward` say which LoRAs are predicted, and its `pack.validation` and
    `test` who is kept from training, as if LoRAs had been trained for all of them.

    Raises:
        ValueError: A value is outside its range, the monitored metric is not measured, no dataset is named, the network
            is a baseline, or of `stores` and `training.teachers` one is there without the other.
    """

    output: SettingsPath
    """Folder of the run; the result is output/difflora.safetensors."""
    encoders: EncoderNames
    """Whose embeddings they are."""
    embeddings: EmbeddingSettings
    """`dataset` is the dataset's YAML file, whose workspace has the people's images and which names the base model;
    preprocess.held_out is at least 1."""
    lae: LAEConfig = field(default_factory=LAEConfig)
    """Shape of the autoencoder, conv or token."""
    layout: LayoutSettings | None = None
    """What the dataset's LoRAs have to be; None is whatever they are. `plan` needs it unless the base model is SDXL."""
    network: SettingsPath | None = None
    """A file of `train-lae` whose autoencoder to start from, in place of `lae`: few teachers, in place of none."""
    stores: tuple[SettingsPath, ...] = ()
    """Stores of teachers for `training.teachers`. Those in the splits train and validation are used whose people are in
    the same split here."""
    in_memory_gb: NonNegativeFloat = 8.0
    """Teachers that take no more are read once, more of them batch by batch."""
    dit: DiTSettings = field(default_factory=DiTSettings)
    """Shape of the DiT."""
    mif: MIFSettings = field(default_factory=MIFSettings)
    """Shape and mode of MIF."""
    images_per_person: PositiveInt = 1
    """In a step."""
    gradient_checkpointing: bool = False
    """Compute the U-Net's activations again in the backward pass, which saves memory and costs time."""
    validation_people: PositiveInt = 16
    """The first so many people of the validation split are evaluated."""
    references: PositiveInt = 3
    """Images of each validation person that are averaged."""
    training: JointTraining = field(default_factory=JointTraining)
    """How all are trained."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.training.evaluation.check_monitor("loss_reduction")
        if self.embeddings.dataset is None:
            raise ValueError("embeddings names a cache, expected `dataset`: the people's images are trained on")
        if self.lae.kind in BASELINES:
            raise ValueError(f"lae.kind is {self.lae.kind}, expected conv or token: baselines are fitted to teachers")
        if self.training.teachers and not self.stores:
            raise ValueError(f"training.teachers is {self.training.teachers}, and `stores` names no store of teachers")
        if self.stores and not self.training.teachers:
            raise ValueError("stores names teachers, and training.teachers is 0: expected how many a micro-batch has")
