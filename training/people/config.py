"""Sections that several trainers' YAML files have: `embeddings`, and `diffusion_loss_check`."""

import math
from dataclasses import dataclass

from difflora_core.fields import PositiveInt, check_fields
from training.engine.config import EvaluationConfig, TrainConfig
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


def check_monitored(evaluation: EvaluationConfig, check: DiffusionLossCheckSettings | None, loop: TrainConfig) -> None:
    """Check that a trainer in weight or latent space measures the monitored metric.

    Raises:
        ValueError: It measures others, lacks the section that the metric needs, or ends before the first check.
    """
    evaluation.check_monitor("r2", "delta_w_cosine", "teacher_recovery")
    if evaluation.monitor != "teacher_recovery":
        return
    if check is None:
        raise ValueError("evaluation.monitor is teacher_recovery, which needs the section `diffusion_loss_check`")
    evaluations = math.ceil(loop.steps / evaluation.interval)
    if check.every > evaluations:
        raise ValueError(
            f"diffusion_loss_check.every is {check.every}, but {loop.steps} steps are evaluated {evaluations} times "
            f"(evaluation.interval {evaluation.interval}): teacher_recovery, which evaluation.monitor names, would "
            "never be measured. Lower `every` or `interval`"
        )


@dataclass(frozen=True)
class EmbeddingSettings:
    """Where embeddings are, or what to make them from.

    Raises:
        ValueError: Both are named or neither, or the image encoder is missing.
    """

    cache: tuple[SettingsPath, ...] = ()
    """Folders and files of embeddings, see `training.people.embeddings`."""
    dataset: SettingsPath | None = None
    """In place of `cache` the dataset's YAML file, whose kept images are embedded into its workspace."""
    image_encoder: SettingsPath | None = None
    """With `dataset`: a CLIP vision model, a folder in transformers' format."""
    allow_missing: bool = False
    """Leave out people of the store without embeddings, in place of an error."""

    def __post_init__(self) -> None:
        if bool(self.cache) == (self.dataset is not None):
            found = "both" if self.cache else "neither"
            raise ValueError(f"embeddings needs `cache`, where they are, or `dataset` to make them from; found {found}")
        if self.dataset is not None and self.image_encoder is None:
            raise ValueError("embeddings.dataset needs embeddings.image_encoder, the CLIP vision folder; found none")
