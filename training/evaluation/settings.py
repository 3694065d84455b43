"""The settings of `evaluate`: one YAML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from difflora_core.fields import NonNegativeFloat, PositiveInt, Seed, check_fields
from training.engine.settings import SettingsPath, Words, absolute_path

from .method_settings import MethodSettings, check_method_names

PORTRAITS = Path(__file__).parent / "prompts" / "portraits.yaml"
"""The project's own prompts."""


REAL = "real images"
"""Name of the row of FID and KID in which two sets of real images are compared."""


def _model_name(name: str, info: ValidationInfo) -> str:
    folder: Path = info.context  # type: ignore[assignment]  # `read_settings` passes it
    is_path = name.startswith((".", "~")) or Path(name).is_absolute()
    return str(absolute_path(Path(name), folder)) if is_path else name


ModelName = Annotated[Words, AfterValidator(_model_name)]
"""A repository whose files are in the hub's cache (`openai/clip-vit-base-patch32`), or a folder: an absolute path, or
one that begins with a dot, relative to the settings file."""


def model_place(name: str) -> Path:
    """Return the folder of a model: itself, or where the hub's cache has a repository of this name."""
    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        return folder
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


@dataclass(frozen=True)
class FaceMetricSettings:
    """Face Sim, copy-paste and face diversity."""

    pack: Words
    """An InsightFace pack that no method is conditioned on, for instance AuraFace-v1."""
    root: SettingsPath
    """Holds models/PACK."""
    conditioning: tuple[str, ...] = ()
    """Packs that methods are conditioned on; having the recognizer of one of them is an error."""


@dataclass(frozen=True)
class DistanceSettings:
    """FID and KID, of as many generated images as there are real ones.

    Raises:
        ValueError: No network is named.
    """

    reference: SettingsPath
    """Folder of real images of other people than the evaluated ones; drawings, where people are drawn."""
    name: str
    """Of the reference set, for the report."""
    inception: SettingsPath | None = None
    """Torch-fidelity's weights, by whose features FID and KID are defined; None: not measured."""
    dino: bool = False
    """The same distances by the features of `metrics.dino`, in columns of their own."""

    def __post_init__(self) -> None:
        if self.inception is None and not self.dino:
            raise ValueError("distances names no network: expected `inception`, the weights, or `dino: true`, or both")


@dataclass(frozen=True)
class MetricSettings:
    """What is measured; a metric that is not named is not measured.

    Raises:
        ValueError: Distances are to be measured by a DINO model that is not named.
    """

    faces: FaceMetricSettings | None = None
    """Face Sim, copy-paste and face diversity."""
    clip: tuple[ModelName, ...] = ()
    """CLIP-T and CLIP-I by these models; usual are ViT-B/32 and ViT-L/14."""
    dino: ModelName | None = None
    """DINO's ViT-S/16."""
    image_reward: ModelName | None = None
    """ImageReward's three files."""
    pick_score: ModelName | None = None
    """PickScore v1."""
    distances: DistanceSettings | None = None
    """FID and KID."""

    def __post_init__(self) -> None:
        if self.distances is not None and self.distances.dino and self.dino is None:
            raise ValueError("distances.dino is true, but metrics name no DINO model: expected `dino`")


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that an evaluation needs.

    Raises:
        ValueError: A value is outside its range, there is no method, names are used twice, or `people` and `dataset`
            are both named, or neither.
    """

    base: SettingsPath
    """The base model, a diffusers folder, of every method that has no graph of its own."""
    output: SettingsPath
    """Folder of everything that is written."""
    methods: dict[str, MethodSettings]
    """By name, in the tables' order."""
    people: SettingsPath | None = None
    """Folder with a folder for each person, see `people_folders.read_people`."""
    dataset: SettingsPath | None = None
    """In place of `people` a dataset's YAML file, whose people are evaluated, see `dataset.dataset_people`."""
    split: Literal["validation", "test"] = "test"
    """Of the dataset. No training and no choice of settings sees `test`; on `validation` settings may be chosen."""
    prompts: SettingsPath = PORTRAITS
    """YAML file of prompts by kind, see `prompt_list.read_prompt_list`."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """What is measured."""
    compared_with: str = ""
    """The method that others are compared with, person by person; empty: the first of the kind difflora, else the first
    of all."""
    max_people: PositiveInt | None = None
    """The first so many people, by name; None: all."""
    references: PositiveInt = 3
    """Images of a person that methods are given: the first so many, unless the person's folder says which."""
    seeds: tuple[Seed, ...] = (0,)
    """An image of each prompt for each of them."""
    class_word: Words = "person"
    """In place of {person} in the prompts."""
    negative: str = ""
    """The negative prompt."""
    size: int = 1024
    """Of a side."""
    sampler: str | None = None
    """The name of a scheduler of diffusers, such as EulerDiscreteScheduler; None is the base model's own."""
    steps: PositiveInt = 30
    """Of the sampler."""
    guidance_scale: NonNegativeFloat = 5.0
    """Of classifier-free guidance."""
    batch: PositiveInt = 4
    """Images that are generated at a time."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the base model."""
    seed: Seed = 0
    """Of the intervals' resampling."""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.people is None) == (self.dataset is None):
            found = "neither" if self.people is None else "both"
            raise ValueError(f"people, a folder, or dataset, a settings file, says who is evaluated; found {found}")
        if self.size < 8 or self.size % 8:
            raise ValueError(f"size is {self.size}, expected a multiple of 8")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}, expected one or more different numbers")
        check_method_names(self.methods)
        if self.metrics.distances is not None and REAL in self.methods:
            raise ValueError(f"{REAL!r} is a row of FID and KID already: give the method another name")
        if self.compared_with and self.compared_with not in self.methods:
            raise ValueError(f"compared_with is {self.compared_with!r}, but methods are {', '.join(self.methods)}")

    def files(self) -> dict[str, Path]:
        """Return everything that is read, by its setting: the user's files, and what steps of a recipe write."""
        who = {"people": self.people, "dataset": self.dataset}
        found = {setting: path for setting, path in who.items() if path is not None}
        found |= {"prompts": self.prompts, "base": self.base}
        for name, method in self.methods.items():
            for setting in ("path", "checkpoint", "face_models", "image_encoder"):
                if (path := getattr(method, setting)) is not None:
                    found[f"methods.{name}.{setting}"] = path
            for setting in ("stores", "embeddings"):
                for number, path in enumerate(getattr(method, setting)):
                    found[f"methods.{name}.{setting}.{number}"] = path
        metrics = self.metrics
        if metrics.faces is not None:
            found["metrics.faces"] = metrics.faces.root / "models" / metrics.faces.pack
        if metrics.distances is not None:
            if metrics.distances.inception is not None:
                found["metrics.distances.inception"] = metrics.distances.inception
            found["metrics.distances.reference"] = metrics.distances.reference
        found |= {f"metrics.clip.{number}": model_place(name) for number, name in enumerate(metrics.clip)}
        named = {setting: getattr(metrics, setting) for setting in ("dino", "image_reward", "pick_score")}
        return found | {f"metrics.{setting}": model_place(name) for setting, name in named.items() if name is not None}

    @property
    def report(self) -> Path:
        """The page with everything that was found."""
        return self.output / "report.html"

    @property
    def baseline(self) -> str:
        """The method that others are compared with."""
        own = (name for name, method in self.methods.items() if method.kind == "difflora")
        return self.compared_with or next(own, next(iter(self.methods)))
