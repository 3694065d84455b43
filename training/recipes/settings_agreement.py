"""What the settings files of several steps have to say alike: else a step would fail after hours of those before it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.settings import read_settings
from training.lora_dataset.config import DatasetConfig, load_config
from training.people.config import DiffusionLossCheckSettings

from .step_files import CHECKPOINT_FILE

TrainerSettings = LAESettings | FinetuneSettings | DiffLoRASettings | JointSettings
SETTINGS: Mapping[str, type[TrainerSettings]] = {
    "train-lae": LAESettings,
    "finetune": FinetuneSettings,
    "train-difflora": DiffLoRASettings,
    "train-teacher-free": JointSettings,
}
"""Of the trainers, by command."""


def check_agreement(commands: Sequence[tuple[str, Path]]) -> None:
    """Check that the trainers of a recipe fit its dataset.

    Args:
        commands: Of all steps, each with its settings file.

    Raises:
        ValueError: LoRAs of another size are expected than are trained, other encoders are named than embed the images,
            nobody is kept for validation or left to train on, no images are held out, or a checkpoint is to be
            fine-tuned without embeddings. The settings and their files are named.
    """
    datasets = {path: load_config(path) for command, path in commands if command.startswith("dataset")}
    by_store = {config.store: (path, config) for path, config in datasets.items()}
    for command, path in commands:
        if command not in SETTINGS:
            continue
        settings = read_settings(SETTINGS[command], path)
        own = dict(by_store[store] for store in settings.stores if store in by_store)
        _check_splits(path, _splitting_datasets(settings, own))
        if isinstance(settings, LAESettings):
            _check_layout(path, settings, own)
        if isinstance(settings, DiffLoRASettings | JointSettings):
            _check_encoders(path, settings)
        _check_held_out_images(path, settings)
        if isinstance(settings, FinetuneSettings) and settings.network.name == CHECKPOINT_FILE:
            _check_has_embeddings(path, settings)


def _splitting_datasets(settings: TrainerSettings, own: Mapping[Path, DatasetConfig]) -> list[Path]:
    """Return the datasets whose settings alone decide who of a trainer's people is in which split.

    They decide nothing where there is another store beside theirs, or theirs already: in a store people keep the split
    that they were in.

    Args:
        settings: Of the trainer.
        own: The recipe's datasets whose stores it trains on.
    """
    if isinstance(settings, JointSettings):
        assert settings.embeddings.dataset is not None  # the settings have checked it
        return [settings.embeddings.dataset]
    packed = any((config.store / "layout.json").is_file() for config in own.values())
    return list(own) if len(own) == len(settings.stores) and not packed else []


def _check_splits(path: Path, datasets: Sequence[Path]) -> None:
    packs = [load_config(dataset).pack for dataset in datasets]
    named = ", ".join(map(str, datasets))
    if packs and not any(pack.validation for pack in packs):
        raise ValueError(
            f"{path}: validation people are needed, but pack.validation of {named} is 0, so that nobody would be in "
            "the split: set it to the share of people who are kept from training"
        )
    if packs and all(pack.validation + pack.test >= 1 for pack in packs):
        raise ValueError(
            f"{path}: people to train on are needed, but pack.validation and pack.test of {named} are 1 together, so "
            "that nobody would be left: they are shares of all people, as 0.03"
        )


def _check_layout(path: Path, settings: LAESettings, datasets: Mapping[Path, DatasetConfig]) -> None:
    for dataset, config in datasets.items() if settings.layout else ():
        for name in ("rank", "feed_forward"):
            expected, trained = getattr(settings.layout, name), getattr(config.dreambooth, name)
            if expected != trained:
                raise ValueError(
                    f"{path}: layout.{name} is {expected}, but dreambooth.{name} of {dataset}, which trains the LoRAs, "
                    f"is {trained}: expected the same in both"
                )


def _check_encoders(path: Path, settings: DiffLoRASettings | JointSettings) -> None:
    embeddings, named = settings.embeddings, settings.encoders
    if embeddings.dataset is None or embeddings.image_encoder is None:
        return
    pack, image = load_config(embeddings.dataset).faces.pack, embeddings.image_encoder.name
    if (pack, image) != (named.face, named.image):
        raise ValueError(
            f"{path}: encoders are {named.face} and {named.image}, but the images are embedded by {pack} (faces.pack "
            f"of {embeddings.dataset}) and {image} (embeddings.image_encoder): expected the same names"
        )


def _check_has_embeddings(path: Path, settings: FinetuneSettings) -> None:
    if not settings.embeddings:
        raise ValueError(
            f"{path}: network is {settings.network}, whose MIF and DiT need the people's embeddings, but `embeddings` "
            "names none: expected the folder that the step `embed` writes"
        )


def _check_held_out_images(path: Path, settings: TrainerSettings) -> None:
    for setting, dataset in _measured_by_images(settings).items():
        if not load_config(dataset).preprocess.held_out:
            raise ValueError(
                f"{path}: {setting} is {dataset}, which keeps no images from training to measure the loss on: its "
                "preprocess.held_out is 0, expected 1 or more"
            )


def _measured_by_images(settings: TrainerSettings) -> dict[str, Path]:
    """Return the datasets on whose held-out images a trainer measures the diffusion loss, by setting."""
    if isinstance(settings, FinetuneSettings):
        return {"dataset": settings.dataset}
    if isinstance(settings, JointSettings):
        assert settings.embeddings.dataset is not None
        return {"embeddings.dataset": settings.embeddings.dataset}
    check: DiffusionLossCheckSettings | None = getattr(settings, "diffusion_loss_check", None)
    return {} if check is None else {"diffusion_loss_check.dataset": check.dataset}
