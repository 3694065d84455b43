"""The settings of `evaluate`: one YAML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from difflora_core.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, check_fields
from training.dreambooth.config import DreamBoothConfig
from training.engine.settings import SettingsPath, absolute_path

Kind = Literal["none", "lora", "dreambooth", "difflora", "photomaker", "images", "comfyui"]
USES_PATH: Mapping[Kind, str] = {
    "lora": "a folder with PERSON.safetensors for each person, or one file for all",
    "difflora": "a DiffLoRA checkpoint",
    "photomaker": "PhotoMaker v1's official file",
    "images": "a folder with PERSON/NUMBER_SEED.png",
    "comfyui": "a workflow in ComfyUI's API format",
}
"""What `path` is, by kind of method."""
METHOD_NAME = re.compile(r"\w[\w .,+()-]{0,58}[\w)]|\w")
"""Names of methods name folders, too."""
COMFYUI = "comfy:"
"""Before the workflow's file in `--method NAME=comfy:FILE`."""


def _model_name(name: str, info: ValidationInfo) -> str:
    folder: Path = info.context  # type: ignore[assignment]  # `read_settings` passes it
    is_path = name.startswith((".", "~")) or Path(name).is_absolute()
    return str(absolute_path(Path(name), folder)) if is_path else name


ModelName = Annotated[str, AfterValidator(_model_name)]
"""A repository whose files are in the hub's cache (`openai/clip-vit-base-patch32`), or a folder: an absolute path, or
one that begins with a dot, relative to the settings file."""


@dataclass(frozen=True)
class MethodSettings:
    """A method: a row of the tables.

    Raises:
        ValueError: `path` is missing, or there is nothing that it could be.
    """

    kind: Kind
    """What it is."""
    path: SettingsPath | None = None
    """Where it is, see `USES_PATH`."""
    references: PositiveInt | None = None
    """How many of each person's references it sees; None: all."""
    subject: str = ""
    """Words in place of {person} in the prompts, with the method's trigger; empty: the class word alone."""
    checkpoint: SettingsPath | None = None
    """lora: a DiffLoRA checkpoint through whose autoencoder LoRAs are sent before; None: none."""
    training: DreamBoothConfig = field(default_factory=DreamBoothConfig)
    """dreambooth: how a LoRA is trained on each person's references."""
    caption: str = "a photo of a {person}"
    """dreambooth: of the training images."""
    mode: Literal["face", "image", "mean", "gate"] | None = None
    """difflora: of MIF; None is the checkpoint's."""
    face_models: SettingsPath | None = None
    """difflora: InsightFace's folder, else beside the checkpoint's folder. photomaker needs it for cropping."""
    face_pack: str = "buffalo_l"
    """photomaker: the pack that crops the references."""
    image_encoder: SettingsPath | None = None
    """difflora: the CLIP vision folder, else beside the checkpoint's folder."""
    style_strength: int = 20
    """photomaker: percentage of the steps before the identity is merged in."""
    seed: Seed = 0
    """difflora: of the LoRA's noise."""
    server: str = "http://127.0.0.1:8188"
    """comfyui: the address of a running ComfyUI."""
    output_node: str = ""
    """comfyui: title or number of the node whose image is measured; needed where several nodes save images."""
    timeout: PositiveFloat = 600.0
    """comfyui: seconds for an image."""

    def __post_init__(self) -> None:
        check_fields(self)
        expected = USES_PATH.get(self.kind)
        if expected and self.path is None:
            raise ValueError(f"path is missing: for the kind {self.kind} it is {expected}")
        if not expected and self.path is not None:
            raise ValueError(f"the kind {self.kind} has no path, found {self.path}")
        if self.kind == "photomaker" and self.face_models is None:
            raise ValueError("face_models is missing: PhotoMaker's references are cropped around the face")
        if self.kind == "dreambooth" and self.training.prior_weight:
            raise ValueError("training.prior_weight is set, but there are no class images here: leave it out")
        if not 0 <= self.style_strength <= 100:
            raise ValueError(f"style_strength is a percentage, found {self.style_strength}")


@dataclass(frozen=True)
class FaceMetricSettings:
    """Face Sim, copy-paste and face diversity."""

    pack: str
    """An InsightFace pack that no method is conditioned on, for instance AuraFace-v1."""
    root: SettingsPath
    """Holds models/PACK."""
    conditioning: tuple[str, ...] = ()
    """Packs that methods are conditioned on; having the recognizer of one of them is an error."""


@dataclass(frozen=True)
class DistanceSettings:
    """FID and KID, of as many generated images as there are real ones."""

    inception: SettingsPath
    """Torch-fidelity's weights."""
    reference: SettingsPath
    """Folder of real images of other people than the evaluated ones."""
    name: str
    """Of the reference set, for the report."""


@dataclass(frozen=True)
class MetricSettings:
    """What is measured; a metric that is not named is not measured."""

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


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that an evaluation needs.

    Raises:
        ValueError: A value is outside its range, there is no method, or names are used twice.
    """

    people: SettingsPath
    """Folder with a folder for each person, see `people_folders.read_people`."""
    prompts: SettingsPath
    """YAML file of prompts by kind, see `prompt_list.read_prompt_list`."""
    base: SettingsPath
    """The base model, a diffusers folder, of every method that has no graph of its own."""
    output: SettingsPath
    """Folder of everything that is written."""
    methods: dict[str, MethodSettings]
    """By name, in the tables' order."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """What is measured."""
    compared_with: str = ""
    """The method that others are compared with, person by person; empty: the first of the kind difflora, else the first
    of all."""
    max_people: PositiveInt | None = None
    """The first so many people, by name; None: all."""
    references: PositiveInt = 3
    """Of a person whose folder does not say which images are references, the first so many are."""
    seeds: tuple[Seed, ...] = (0,)
    """An image of each prompt for each of them."""
    class_word: str = "person"
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
        if self.size < 8 or self.size % 8:
            raise ValueError(f"size is {self.size}, expected a multiple of 8")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}, expected one or more different numbers")
        check_method_names(self.methods)
        if self.compared_with and self.compared_with not in self.methods:
            raise ValueError(f"compared_with is {self.compared_with!r}, but methods are {', '.join(self.methods)}")

    def files(self) -> dict[str, Path]:
        """Return everything that is read, by its setting: the user's files, and what steps of a recipe write."""
        found = {"people": self.people, "prompts": self.prompts, "base": self.base}
        for name, method in self.methods.items():
            for setting in ("path", "checkpoint", "face_models", "image_encoder"):
                if (path := getattr(method, setting)) is not None:
                    found[f"methods.{name}.{setting}"] = path
        metrics = self.metrics
        if metrics.faces is not None:
            found["metrics.faces"] = metrics.faces.root / "models" / metrics.faces.pack
        if metrics.distances is not None:
            found["metrics.distances.inception"] = metrics.distances.inception
            found["metrics.distances.reference"] = metrics.distances.reference
        models = [("clip", name) for name in metrics.clip]
        models += [
            (s, name) for s in ("dino", "image_reward", "pick_score") if (name := getattr(metrics, s)) is not None
        ]
        # Others are names of repositories in the hub's cache
        return found | {f"metrics.{setting}": Path(name) for setting, name in models if Path(name).is_absolute()}

    @property
    def baseline(self) -> str:
        """The method that others are compared with."""
        own = (name for name, method in self.methods.items() if method.kind == "difflora")
        return self.compared_with or next(own, next(iter(self.methods)))


def check_method_names(names: Mapping[str, object]) -> None:
    """Check that names of methods can be names of folders.

    Raises:
        ValueError: There is none, or one can't.
    """
    if not names:
        raise ValueError("methods is empty: name at least one")
    for name in names:
        if not METHOD_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:60]!r} can't be a method's name: expected up to 60 letters, digits, spaces and _.,+()-, as it "
                "names a folder"
            )
    lower = [name.lower() for name in names]
    if len(set(lower)) < len(lower):
        raise ValueError(f"methods differ in upper and lower case alone, but name folders: {', '.join(names)}")


def given_method(text: str) -> tuple[str, MethodSettings]:
    """Read `NAME=FOLDER` (images of another program) or `NAME=comfy:WORKFLOW.json`, with paths from where one is.

    Raises:
        ValueError: It is neither.
    """
    name, equals, place = text.partition("=")
    if not (name and equals and place.removeprefix(COMFYUI)):
        raise ValueError(f"found --method {text!r}, expected NAME=FOLDER or NAME={COMFYUI}WORKFLOW.json")
    kind: Kind = "comfyui" if place.startswith(COMFYUI) else "images"
    return name, MethodSettings(kind, absolute_path(Path(place.removeprefix(COMFYUI)), Path.cwd()))
