"""Which files the steps of a recipe read and write, by their settings alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.settings import read_section, read_settings
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import DatasetConfig, load_config
from training.people.config import DiffusionLossCheckSettings, EmbeddingSettings
from training.pilot.settings import PilotSettings

LAE_FILE, CHECKPOINT_FILE = "lae.safetensors", "difflora.safetensors"


@dataclass(frozen=True)
class StepFiles:
    """Files and folders of one step; the keys are settings."""

    own: Mapping[str, Path] = field(default_factory=dict)
    """The user's: images and models."""
    reads: Mapping[str, Path] = field(default_factory=dict)
    """What earlier steps write, and settings files of the recipe."""
    writes: tuple[Path, ...] = ()
    """What later steps may read."""
    imports: tuple[Path, ...] = ()
    """What later steps may read if `import --without-images` has written it."""
    given: Mapping[str, Path] = field(default_factory=dict)
    """What earlier steps write or, if none does, the user's."""


def step_files(command: str, settings: Path) -> StepFiles:
    """Return what a command reads and writes.

    Args:
        command: See `recipe.Command`.
        settings: Its YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read.
    """
    return READERS[command](settings)


def pilot_files(path: Path) -> StepFiles:
    """Of `pilot`, which needs the user's files that the dataset needs, too."""
    settings = read_settings(PilotSettings, path)
    own = {} if settings.clip is None else {"clip": settings.clip}
    return StepFiles(own, {"dataset": settings.dataset})


def dataset_files(path: Path) -> StepFiles:
    """Of `dataset all`."""
    config, images = load_config(path), image_files(path)
    return replace(images, writes=(*images.writes, config.store), imports=(without_images(config).store,))


def image_files(path: Path) -> StepFiles:
    """Of `dataset images`."""
    config = load_config(path)
    own = {"base": config.base, "faces": config.faces.root / "models" / config.faces.pack}
    if config.collect.source != "datasets" or Path(config.collect.path).is_absolute():
        own["collect.path"] = Path(config.collect.path)
    if config.generate.enabled:
        names = ("file", "prompts", "negative", "lcm_lora")
        files = {f"generate.{name}": getattr(config.generate, name) for name in names}
        own |= {setting: file for setting, file in files.items() if file is not None}
    return StepFiles(own, writes=(config.workspace,))


def lae_files(path: Path) -> StepFiles:
    """Of `train-lae`."""
    settings = read_settings(LAESettings, path)
    reads = _numbered("stores", settings.stores) | _check(settings.diffusion_loss_check)
    return StepFiles({}, reads, (settings.output / LAE_FILE,))


def embed_files(path: Path) -> StepFiles:
    """Of `embed`."""
    settings = read_section(EmbeddingSettings, path, "embeddings")
    if settings.dataset is None or settings.image_encoder is None:
        raise ValueError(f"{path}: embeddings names no dataset, so that there is nothing to embed")
    dataset = load_config(settings.dataset)
    return StepFiles(
        {"embeddings.image_encoder": settings.image_encoder},
        {"embeddings.dataset": settings.dataset, "workspace of embeddings.dataset": dataset.workspace},
        (dataset.embeddings(settings.image_encoder),),
    )


def difflora_files(path: Path) -> StepFiles:
    """Of `train-difflora`."""
    settings = read_settings(DiffLoRASettings, path)
    embeddings = settings.embeddings
    reads = _numbered("stores", settings.stores) | {"lae": settings.lae} | _check(settings.diffusion_loss_check)
    reads |= _numbered("embeddings.cache", embeddings.cache)
    if embeddings.dataset is not None and embeddings.image_encoder is not None:
        reads["embeddings"] = load_config(embeddings.dataset).embeddings(embeddings.image_encoder)
    return StepFiles({}, reads, (settings.output / CHECKPOINT_FILE,))


def finetune_files(path: Path) -> StepFiles:
    """Of `finetune`."""
    settings = read_settings(FinetuneSettings, path)
    reads = {"network": settings.network, "dataset": settings.dataset}
    reads["workspace of dataset"] = load_config(settings.dataset).workspace
    reads |= _numbered("stores", settings.stores) | _numbered("embeddings", settings.embeddings)
    return StepFiles({}, reads, (settings.output / settings.network.name,))


def joint_files(path: Path) -> StepFiles:
    """Of `train-teacher-free`."""
    settings = read_settings(JointSettings, path)
    embeddings = settings.embeddings
    assert embeddings.dataset is not None  # the settings have checked it
    assert embeddings.image_encoder is not None
    dataset = load_config(embeddings.dataset)
    reads = {"embeddings.dataset": embeddings.dataset, "workspace of embeddings.dataset": dataset.workspace}
    reads["embeddings"] = dataset.embeddings(embeddings.image_encoder)
    reads |= {} if settings.network is None else {"network": settings.network}
    given = _numbered("stores", settings.stores)
    return StepFiles({}, reads, (settings.output / CHECKPOINT_FILE,), given=given)


def evaluation_files(path: Path) -> StepFiles:
    """Of `evaluate`, which compares the recipe's results with whatever the user has."""
    settings = read_settings(EvaluationSettings, path)
    given, reads = settings.files(), {}
    if settings.dataset is not None:
        reads["dataset"] = given.pop("dataset")
        reads["workspace of dataset"] = _evaluated_dataset(path, settings).workspace
    return StepFiles({}, reads, (settings.report,), given=given)


def _evaluated_dataset(path: Path, settings: EvaluationSettings) -> DatasetConfig:
    """Read the dataset whose people are evaluated.

    Raises:
        ValueError: It keeps nobody from training.
    """
    assert settings.dataset is not None
    config = load_config(settings.dataset)
    if not (config.pack.test if settings.split == "test" else config.pack.validation):
        raise ValueError(
            f"{path}: the split {settings.split!r} is evaluated, but pack.{settings.split} of {settings.dataset} is 0, "
            "so that nobody is in it: set it to the share of people who are kept from training, before anything is "
            "trained"
        )
    return config


def without_images(config: DatasetConfig) -> DatasetConfig:
    """Return the dataset of imported LoRAs of people of whom there are no images: a workspace of its own."""
    return replace(config, workspace=config.workspace / "without_images")


def _numbered(setting: str, paths: tuple[Path, ...]) -> dict[str, Path]:
    return {f"{setting}[{number}]": path for number, path in enumerate(paths)}


def _check(check: DiffusionLossCheckSettings | None) -> dict[str, Path]:
    return {} if check is None else {"diffusion_loss_check.dataset": check.dataset}


READERS: Mapping[str, Callable[[Path], StepFiles]] = {
    "pilot": pilot_files,
    "dataset all": dataset_files,
    "dataset images": image_files,
    "train-lae": lae_files,
    "finetune": finetune_files,
    "embed": embed_files,
    "train-difflora": difflora_files,
    "train-teacher-free": joint_files,
    "evaluate": evaluation_files,
}
